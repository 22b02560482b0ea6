"""`kaalia relay serve`: let renters in to machines without open ports, from this machine. A program of its own."""

import asyncio
import ipaddress
import sys
from pathlib import Path
from typing import Annotated

import typer

from kaalia import log
from kaalia.cli import output
from kaalia.contracts import relay as rules
from kaalia.errors import ConfigError
from kaalia.relay import run
from kaalia.relay.options import Options, find_sshd, login_user
from kaalia.sync.client import check_url

DEFAULT_DATA = Path("/var/lib/kaalia-relay")

relay = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Be a relay for machines that nobody reaches.",
    epilog="Before it, at the marketplace: kaalia marketplace relay add NAME --address HOST:PORT --ports FIRST-LAST",
)


@relay.callback()
def _root() -> None:
    """Be a relay for machines that nobody reaches."""


@relay.command()
def serve(
    name: Annotated[str, typer.Option(metavar="NAME", help="As the marketplace knows this relay.")],
    ports: Annotated[str, typer.Option(metavar="FIRST-LAST", help="Ports that renters connect to.")],
    marketplace: Annotated[str, typer.Option(metavar="URL", help="Which says who may listen where.")],
    token_file: Annotated[Path, typer.Option(metavar="FILE", help="With the relay's token; - reads it from stdin.")],
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Where machines log in.")] = "0.0.0.0:2222",
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the host key and the configuration of sshd.")
    ] = DEFAULT_DATA,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Whom machines log in as; only root can name another.")
    ] = None,
) -> None:
    """Serve until SIGTERM, by the sshd of this machine. Sessions of renters outlive a restart."""
    address, port = _address(listen)
    served = rules.parse_ports(ports)
    rules.check_apart(port, served)
    options = Options(
        name=rules.check_name(name),
        address=address,
        port=port,
        ports=served,
        marketplace=check_url(marketplace),
        token=_token(token_file),
        data=data.absolute(),
        user=login_user(user),
        sshd=find_sshd(),
    )
    log.setup("info", "text")
    asyncio.run(run.serve(options, lambda where: typer.echo(f"the relay answers on {where}")))


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        if not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            "listen_invalid",
            f"cannot listen on {listen!r}: it is not ADDRESS:PORT",
            remedy="Write it like 0.0.0.0:2222 or [::]:2222",
        ) from error
    return host, int(port)


def _token(file: Path) -> str:
    try:
        token = (sys.stdin.read() if str(file) == "-" else file.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the token from {file}: {error}"
        raise ConfigError("token_unreadable", message, remedy="name the file that it was written to") from error
    if not token or not token.isascii() or any(char.isspace() for char in token):
        raise ConfigError(
            "token_unreadable",
            f"cannot use the token in {file}: it must be one word",
            remedy="write into it what `kaalia marketplace relay add` showed",
        )
    return token


if __name__ == "__main__":
    sys.exit(output.run(relay, sys.argv[1:], "kaalia relay"))
