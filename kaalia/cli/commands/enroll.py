"""`kaalia enroll URL TOKEN`: makes this machine a member of a marketplace, whether the daemon runs or not.

The token may come from a file or from stdin, so that it need not stand in the list of processes. A program of its own
(`python -m`), since it imports what reads the machine.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kaalia import log
from kaalia.capability.report import Inputs, collect, fingerprint
from kaalia.cli import output
from kaalia.clock import SystemClock
from kaalia.config import Config, load
from kaalia.errors import ConfigError, HostError
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import Engine, PortRange
from kaalia.store import enrolment, folder
from kaalia.store.changes import Changes
from kaalia.store.enrolment import Enrolment
from kaalia.sync import enroll as protocol

FROM_STDIN = "-"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: kaalia enroll https://market.example --token-file /root/token")
def enroll(
    url: Annotated[str, typer.Argument(metavar="URL", help="The marketplace, such as https://market.example.")],
    token: Annotated[
        str, typer.Argument(metavar="[TOKEN]", help="The one-time token, or - to read it from stdin.")
    ] = "",
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Read the token from here.")] = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="The state is lost: begin a new one with the old key, adopt what runs.")
    ] = False,
    config: output.ConfigFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Enrol this machine with a marketplace. A running daemon notices by itself."""
    settings = load(config, os.environ)
    log.setup("warning", "text")
    secret = _token(token, token_file)
    folder.prepare(settings.state_dir)
    member = asyncio.run(_recover(settings, url, secret) if recover else _enroll(settings, url, secret))
    if as_json:
        output.print_json({"machine_id": member.machine_id, "url": member.url, "enrolled_at": member.enrolled_at})
    else:
        typer.echo(f"enrolled as machine {member.machine_id} of {member.url}")


def _token(token: str, token_file: Path | None) -> str:
    """The token from wherever it was given. Raises ConfigError `token_missing`."""
    try:
        text = token_file.read_text() if token_file else sys.stdin.readline() if token == FROM_STDIN else token
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "token_missing", f"cannot read the token from {token_file}: {error}", remedy="name a readable file"
        ) from error
    if not text.strip():
        raise ConfigError(
            "token_missing",
            "cannot enrol: there is no token",
            remedy="give TOKEN, or - to read it from stdin, or --token-file; the marketplace makes one for its hosts",
        )
    return text.strip()


async def _enroll(config: Config, url: str, token: str) -> Enrolment:
    database = await folder.open_database(config, Changes())
    try:
        # Asked first: a machine that is a member needs no reading of its hardware to be told so.
        protocol.refuse_second(await database.read(enrolment.get))
        identity = await _fingerprint(config)
        return await protocol.enroll(database, config.state_dir, url, token, identity, SystemClock())
    finally:
        await database.close()


async def _recover(config: Config, url: str, token: str) -> Enrolment:
    """The same key gets the same machine id, whose contracts and containers are then found again."""
    identity = await _fingerprint(config)
    async with folder.new_state(config, Changes()) as database:
        return await protocol.enroll(database, config.state_dir, url, token, identity, SystemClock())


async def _fingerprint(config: Config) -> str:
    inputs = Inputs(
        probe=NvmlProbe(deadline_s=config.nvml.deadline_s),
        engine=_no_engine,
        port_range=PortRange(config.ports.first, config.ports.last),
    )
    return fingerprint(await collect(inputs, SystemClock().now()))


async def _no_engine() -> Engine:
    """The hardware's identity does not depend on Docker, which may be absent still."""
    raise HostError("engine_not_asked", "cannot tell the engine: it is not asked when enrolling")


if __name__ == "__main__":
    sys.exit(output.run(app, sys.argv[1:], "kaalia enroll"))
