"""`kaalia marketplace ...`: serve the reference marketplace, add users, make enrolment tokens.

A program of its own (`python -m`), since it imports ten times as much as the other commands.
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from kaalia import log
from kaalia.cli import output
from kaalia.cli.commands.marketplace_relay import relay
from kaalia.cli.commands.marketplace_verification import verification
from kaalia.cli.market_data import DEFAULT_DATA, DataDir, at_the_database
from kaalia.cli.speed_peer import PeerChild
from kaalia.clock import SystemClock
from kaalia.errors import ConfigError, HostError
from kaalia.marketplace import accounts, run
from kaalia.marketplace.context import CERTIFICATE_LIFE
from kaalia.prober.bounds import LOOPBACK, networks

logger = logging.getLogger(__name__)

marketplace = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run the reference marketplace, which the unmodified `vastai` client can rent from.",
    epilog="Example: kaalia marketplace serve --listen 127.0.0.1:8080 --data ./market",
)
user = typer.Typer(no_args_is_help=True, help="Add users.")
marketplace.add_typer(user, name="user")
marketplace.add_typer(relay, name="relay")
marketplace.add_typer(verification, name="verification")


@marketplace.command()
def serve(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8080",
    data: DataDir = DEFAULT_DATA,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="How others reach it; becomes VAST_URL inside containers.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Private key, PEM.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front does TLS; plain HTTP is safe here.")
    ] = False,
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="NETWORK", help="Where that proxy is, if not on this machine; repeatable."),
    ] = None,
    may_probe: Annotated[
        list[str] | None,
        typer.Option("--may-probe", metavar="NETWORK", help="Inner addresses whose ports may be tried; repeatable."),
    ] = None,
    speed_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the bytes of machines' speed tests go, plain TCP; auto: the port after --listen's, not behind "
            "a proxy; off: no speed tests.",
        ),
    ] = "auto",
    speed_public: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="How machines reach that, if otherwise.")
    ] = None,
    certificate_days: Annotated[
        float, typer.Option(metavar="DAYS", min=0.0001, max=825, help="For how long a certificate of Jupyter holds.")
    ] = CERTIFICATE_LIFE.days,
    verify_simulated: Annotated[
        bool, typer.Option("--verify-simulated", help="Verify machines with a simulated driver too, to try it out.")
    ] = False,
) -> None:
    """Serve until SIGTERM. Anywhere but on loopback it wants TLS, its own or a proxy's."""
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError(
            "tls_invalid",
            "cannot use TLS: --tls-cert and --tls-key belong together",
            remedy="give both files, or neither",
        )
    log.setup("info", "text")
    tls = run.TlsFiles(tls_cert, tls_key) if tls_cert and tls_key else None
    place = _speed_place(speed_listen, listen, behind_proxy=behind_proxy)
    public = run.parse_address(speed_public) if speed_public else None

    async def serving() -> None:
        async with _speed_peer(place, public, is_chosen=speed_listen != "auto") as source:
            await run.serve(
                listen,
                data,
                on_ready=_say_ready,
                public_url=public_url,
                tls=tls,
                behind_tls_proxy=behind_proxy,
                proxies=networks("--proxy", proxy) or LOOPBACK,
                may_probe=networks("--may-probe", may_probe),
                speed=source,
                certificate_life=timedelta(days=certificate_days),
                verifies_simulated=verify_simulated,
            )

    asyncio.run(serving())


def _speed_place(wanted: str, listen: str, *, behind_proxy: bool) -> run.Address | None:
    """None: no speed tests."""
    if wanted == "off" or (wanted == "auto" and behind_proxy):
        return None
    if wanted != "auto":
        return run.parse_address(wanted)
    own = run.parse_address(listen)
    return run.Address(own.host, own.port + 1 if 0 < own.port < 65535 else 0)


@asynccontextmanager
async def _speed_peer(
    place: run.Address | None, public: run.Address | None, *, is_chosen: bool
) -> AsyncIterator[PeerChild | None]:
    """A place that nobody chose may be taken: then there are no speed tests."""
    if place is None:
        yield None
        return
    made = PeerChild(place.host, place.port, (public.host, public.port) if public else None)
    try:
        port = await made.open()
    except (ConfigError, HostError) as error:
        if is_chosen:
            raise
        logger.warning("no speed tests: %s", error)
        yield None
        return
    logger.info("speed tests on port %d", port)
    try:
        yield made
    finally:
        await made.close()


@marketplace.command(epilog="Example: kaalia enroll URL --token-file FILE, on the machine to be enrolled")
def enroll_token(
    username: Annotated[str, typer.Option("--user", metavar="NAME", help="The machine's owner.")],
    data: DataDir = DEFAULT_DATA,
    as_json: output.AsJson = False,
) -> None:
    """Make a token with which one machine may enrol within 24 hours. It is shown once."""
    now = SystemClock().now()
    token = at_the_database(data, lambda engine: accounts.new_enrol_token(engine, username, now))
    if as_json:
        output.print_json({"token": token, "user": username})
    else:
        typer.echo(token)


@user.command("add")
def add_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")],
    host: Annotated[bool, typer.Option("--host", help="The user may enrol and list machines.")] = False,
    data: DataDir = DEFAULT_DATA,
    as_json: output.AsJson = False,
) -> None:
    """Add a user and show the API key, once."""
    key = at_the_database(data, lambda engine: accounts.add_user(engine, name, host))
    if as_json:
        output.print_json({"user": name, "is_host": host, "api_key": key})
    else:
        output.print_pairs([("User", f"{name} ({'host' if host else 'renter'})"), ("API key", key)], output.console())
        typer.echo("The key is not stored and cannot be shown again.")


def _say_ready(url: str) -> None:
    typer.echo(f"the marketplace answers on {url}")


if __name__ == "__main__":
    sys.exit(output.run(marketplace, sys.argv[1:], "kaalia marketplace"))
