"""`kaalia power`: the GPUs' power limits, what the policy of the configuration wants, and a way to put all back.

A program of its own, which asks the driver itself. It changes something with `--restore` only.
"""

import asyncio
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from kaalia.cli import output
from kaalia.clock import SystemClock
from kaalia.config import Config, load
from kaalia.contracts.power import PowerPolicy, Use
from kaalia.errors import StoreError
from kaalia.host.power import PowerProbe
from kaalia.model.power import GpuPower, PowerMark
from kaalia.power.policy import read
from kaalia.power.service import Plan, PowerService, plan
from kaalia.store import folder
from kaalia.store import power as rows
from kaalia.store.changes import Changes
from kaalia.store.database import read_only

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Examples: kaalia power --dry-run; kaalia power --restore")
def power(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the policy would do now, also where it is not enabled.")
    ] = False,
    restore: Annotated[bool, typer.Option("--restore", help="Put back what kaalia set on the GPUs.")] = False,
    config: output.ConfigFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show power limits and clocks of the GPUs, and what the policy wants. Exit code 1: some of it does not fit."""
    settings = load(config, os.environ)
    if restore:
        asyncio.run(_restore(settings))
        return
    gpus = asyncio.run(PowerProbe().apply()).gpus
    uses, marks = _known(settings)
    is_shown = dry_run or settings.power.enabled
    policy = read(settings.power) if is_shown else PowerPolicy({})
    made = plan(policy, gpus, uses, marks, frozenset(), SystemClock().boot_id())
    if as_json:
        wanted = [{**asdict(want), "gpu": asdict(gpu)} for want, gpu in zip(made.wanted, gpus, strict=True)]
        output.print_json({"enabled": settings.power.enabled, "gpus": wanted, "would_set": made.settings})
    else:
        _print(gpus, made, is_enabled=settings.power.enabled)
    raise typer.Exit(output.REFUSED if any(want.problems for want in made.wanted) else output.OK)


def _known(config: Config) -> tuple[dict[str, Use], dict[str, PowerMark]]:
    """What each GPU does, and what was set on it; nothing where there is no state yet."""
    try:
        return read_only(config.database_path, lambda tx: (rows.uses(tx), rows.marks(tx)))
    except StoreError:
        return {}, {}


async def _restore(config: Config) -> None:
    if not config.database_path.exists():
        typer.echo("nothing was set: there is no state")
        return
    database = await folder.open_database(config, Changes())
    try:
        marks = await database.read(rows.marks)
        if not marks:
            typer.echo("nothing is set")
            return
        await PowerService(database, Changes(), SystemClock(), PowerPolicy({}), PowerProbe()).look()
        left = await database.read(rows.marks)
    finally:
        await database.close()
    typer.echo(f"put back on {len(marks) - len(left)} of {len(marks)} GPU(s)")
    if left:
        raise typer.Exit(output.REFUSED)


def _print(gpus: tuple[GpuPower, ...], made: Plan, *, is_enabled: bool) -> None:
    out = output.console()
    if not gpus:
        out.print("The driver shows no GPU.")
        return
    changes = {one.uuid: one for one in made.settings}
    lines = []
    for gpu, want in zip(gpus, made.wanted, strict=True):
        change = changes.get(gpu.uuid)
        would = "nothing"
        if change is not None:
            parts = [f"{change.power_w:.0f} W"] if change.power_w is not None else []
            parts += [f"clocks up to {change.clock_max_mhz} MHz"] if change.clock_max_mhz is not None else []
            would = ", ".join([*parts, *(["clocks free"] if change.unlock else [])])
        bounds = f"{gpu.min_w:.0f}-{gpu.max_w:.0f} W" if gpu.min_w is not None and gpu.max_w is not None else "-"
        limit = f"{gpu.limit_w:.0f} W" if gpu.limit_w is not None else "-"
        heat = f"{gpu.temperature_c} °C" if gpu.temperature_c is not None else "-"
        state = f"{want.use}, too hot" if want.is_guarded else str(want.use)
        lines.append((str(gpu.index), gpu.name, state, heat, limit, bounds, would))
    columns = (">#", "GPU", "Use", ">Temp", ">Limit", ">May be", "~Would set" if not is_enabled else "~Sets")
    output.print_table(columns, lines, out)
    for want in made.wanted:
        for problem in want.problems:
            output.print_warning(problem, out)
    if not is_enabled:
        out.print("The policy is not enabled (power.enabled): nothing is set.")


if __name__ == "__main__":
    sys.exit(output.run(app, sys.argv[1:], "kaalia power"))
