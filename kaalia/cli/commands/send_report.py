"""`kaalia send-report`, known to hosts as send_mach_info.py: has the daemon read the machine and report it now.

A program of its own. With `--dry-run`, or where no daemon answers, it shows what would be sent. Exit codes: 0 the
marketplace has it (or it was shown, as asked), 1 it has it not yet, 2 no daemon or not enrolled.
"""

import asyncio
import os
import sys
from datetime import datetime
from typing import Annotated

import typer
from pydantic_core import from_json

from kaalia.capability.report import Inputs, collect
from kaalia.cli import output
from kaalia.cli.following import follow
from kaalia.client import LocalClient, LocalError
from kaalia.clock import SystemClock
from kaalia.config import Config, load
from kaalia.errors import ConfigError, HostError, UnreachableError
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import Engine, MachineReport, PortRange
from kaalia.wire import document

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Examples: kaalia send-report; kaalia send-report --dry-run | jq .gpus")
def send_report(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent, as JSON.")] = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", min=1, max=600, help="For the marketplace's word.")] = 60.0,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
) -> None:
    """Have the machine read now, and its report sent to the marketplace."""
    settings = load(config, os.environ)
    client = LocalClient(socket or settings.socket)
    if dry_run:
        output.print_json(_readable(_known(client, settings)))
        return
    before = _collected_at(client)
    to = client.order_report()["to"]
    if not to:
        raise ConfigError(
            "not_enrolled",
            "cannot send a report: this machine is not enrolled; it was read anew",
            remedy="see it with: kaalia report; enrol with: kaalia enroll URL --token-file FILE",
        )
    if not _was_sent(client, before, wait):
        typer.echo(f"the machine was read, and {to} has not acknowledged it within {wait:g} s; see: kaalia status")
        raise typer.Exit(output.REFUSED)
    report = client.report()
    typer.echo(f"sent to {to}: {len(report.gpus)} GPU(s), {len(report.missing)} fact(s) not read; see: kaalia report")


def _was_sent(client: LocalClient, before: datetime | None, wait_s: float) -> bool:
    """A newer report is there, and nothing waits to be sent."""

    def is_sent() -> bool:
        at, link = _collected_at(client), client.status().marketplace
        is_newer = at is not None and (before is None or at > before)
        return is_newer and link is not None and not link.unsent_messages

    return follow(is_sent, lambda done: not done, wait_s)


def _collected_at(client: LocalClient) -> datetime | None:
    try:
        return client.report().collected_at
    except LocalError as error:
        if error.code != "no_report_yet":
            raise
        return None


def _known(client: LocalClient, config: Config) -> MachineReport:
    """What the daemon has; read here and now when no daemon answers, without what only it measures."""
    try:
        return client.report()
    except (UnreachableError, LocalError):
        return asyncio.run(_read(config))


async def _read(config: Config) -> MachineReport:
    inputs = Inputs(
        probe=NvmlProbe(deadline_s=config.nvml.deadline_s),
        engine=_no_engine,
        port_range=PortRange(config.ports.first, config.ports.last),
        public_ip=None if config.ports.public_ip == "auto" else config.ports.public_ip,
    )
    return await collect(inputs, SystemClock().now())


async def _no_engine() -> Engine:
    raise HostError("engine_not_asked", "cannot tell the engine: the daemon does not run, and asks it")


def _readable(report: MachineReport) -> object:
    """Exactly what is sent, as data."""
    return from_json(document.encode(report))


def main(argv: list[str] | None = None) -> int:
    return output.run(app, sys.argv[1:] if argv is None else argv, "kaalia send-report")


if __name__ == "__main__":
    sys.exit(main())
