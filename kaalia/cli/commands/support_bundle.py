"""`kaalia support-bundle`: what helps to find a fault, in one file on this machine, without secrets. Sends nothing.

A program of its own. Works whether the daemon runs or not.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from kaalia.cli import output
from kaalia.cli.bundle import pack, parts
from kaalia.cli.bundle.parts import Part
from kaalia.cli.bundle.scrub import Scrubber, of_machine
from kaalia.client import LocalClient
from kaalia.clock import SystemClock
from kaalia.config import Config, load
from kaalia.errors import ConfigError, StoreError
from kaalia.store import overview
from kaalia.store.database import read_only
from kaalia.units import format_bytes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: kaalia support-bundle, then read it: tar -xzf FILE; and give it to whom you trust")
def support_bundle(
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; a new file in this folder if not given."),
    ] = None,
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="Of the daemon's log.")] = parts.LOG_LINES,
    config: output.ConfigFile = None,
    socket_file: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Write status, conditions, report, logs and versions into a file that only you can read, and send nothing."""
    now = SystemClock().now()
    settings, text = _configuration(config)
    name = f"kaalia-support-{socket.gethostname()}-{now:%Y%m%dT%H%M%SZ}"
    path = to or Path(f"{name}.tar.gz")
    client = LocalClient(socket_file or settings.socket)
    found = asyncio.run(parts.collect(settings, text, client, now, lines))
    scrubber = Scrubber([*of_machine(settings), *_renters_texts(settings)])
    found = pack.cleaned(found, scrubber)
    size = pack.write(path, name, found, now)
    if as_json:
        content = [{"file": one.name, "about": one.about, "missing": one.why} for one in found]
        output.print_json({"path": path, "bytes": size, "content": content})
    else:
        _print(path, size, found)


def _configuration(path: Path | None) -> tuple[Config, str]:
    """What is in force; one that is wrong is no reason to give no bundle: then the defaults say where to look."""
    try:
        settings = load(path, os.environ)
    except ConfigError as error:
        return Config(), f"{error}\n"
    return settings, parts.configuration(settings)


def _renters_texts(config: Config) -> Iterable[tuple[str, str]]:
    """All that must not appear. Where the state cannot be read, nothing of it is in the bundle either."""
    try:
        return read_only(config.database_path, lambda tx: list(overview.renters_texts(tx)))
    except StoreError:
        return ()


def _print(path: Path, size: int, found: list[Part]) -> None:
    out = output.console()
    rows = (
        (one.name, one.about, format_bytes(len((one.text or "").encode())) if one.text is not None else "-", one.why)
        for one in found
    )
    output.print_table(("File", "~What it is", ">Size", "~Missing"), rows, out)
    out.print()
    out.print(f"{path} ({format_bytes(size)}, mode 0600) was written here and sent nowhere.", soft_wrap=True)
    out.print("Read it before you give it away: names, addresses and hardware of this machine are in it.")


if __name__ == "__main__":
    sys.exit(output.run(app, sys.argv[1:], "kaalia support-bundle"))
