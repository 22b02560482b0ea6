"""`kaalia doctor --fix`: mends what can be mended without harm to anybody, after a yes. A program of its own.

Shows each command first, word for word. Nothing is stopped, restarted or rebooted; the rest stays for a person.
"""

import asyncio
import os
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.client import LocalClient
from kaalia.clock import SystemClock
from kaalia.config import load
from kaalia.errors import ConfigError, HostError
from kaalia.health import fixes
from kaalia.health.fixes import ByHand, Fix, Machine
from kaalia.host import mending
from kaalia.model.machine import PortRange

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Examples: kaalia doctor --fix --dry-run; kaalia doctor --fix --yes")
def fix(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
) -> None:
    """Mend what can be mended without harm to anybody, after a yes. Exit code 1: something could not be mended."""
    settings = load(config, dict(os.environ))
    document = LocalClient(socket or settings.socket).health()
    machine = Machine(PortRange(settings.ports.first, settings.ports.last), SystemClock().now())
    planned, by_hand = fixes.plan((one.condition for one in document.open), machine)
    out = output.console()
    show(planned, by_hand, out)
    if not planned or dry_run:
        raise typer.Exit(output.OK)
    agree(planned, yes=yes)
    raise typer.Exit(output.OK if carry_out(planned, out) else output.REFUSED)


def show(planned: Iterable[Fix], by_hand: Iterable[ByHand], out: Console) -> None:
    """What would be done, word for word, and what is left to a person."""
    for one in planned:
        out.print(f"[bold]{one.code}[/]: {escape(one.does)}")
        for step in one.steps:
            out.print(f"  + {escape(step.shown)}", soft_wrap=True)
        out.print()
    for left in by_hand:
        out.print(f"[dim]by hand:[/] {escape(left.problem.message)} [dim]\\[{left.problem.code}][/]", soft_wrap=True)
        if left.why:
            out.print(f"  [dim]why:[/] {escape(left.why)}", soft_wrap=True)
        if left.problem.remedy:
            out.print(f"  [dim]remedy:[/] {escape(left.problem.remedy)}", soft_wrap=True)
    if not planned:
        out.print("Nothing is wrong that could be mended without you.")


def agree(planned: list[Fix], *, yes: bool) -> None:
    """Raises HostError, ConfigError, or typer.Exit when the answer is no."""
    if os.geteuid() != 0:
        raise HostError(
            "fix_needs_root", "cannot mend this machine: this is not root", remedy="sudo kaalia doctor --fix"
        )
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("fix_unconfirmed", "cannot ask: nobody is at the keyboard", remedy="add --yes, or --dry-run")
    if not typer.confirm(f"Do {'this' if len(planned) == 1 else f'these {len(planned)} things'}?"):
        raise typer.Exit(output.REFUSED)


def carry_out(planned: Iterable[Fix], out: Console) -> bool:
    """One after the other; one that fails is taken back, and the others are done. True: all were."""
    is_done = True
    for one in planned:
        try:
            asyncio.run(mending.carry_out(one.steps))
        except HostError as error:
            is_done = False
            output.print_error(error)
            out.print(f"[red]not done[/]: {one.code}; files are as they were")
        else:
            out.print(f"[green]done[/]: {one.code}; kaalia doctor tells within two minutes that it is over")
    return is_done


if __name__ == "__main__":
    sys.exit(output.run(app, sys.argv[1:], "kaalia doctor --fix"))
