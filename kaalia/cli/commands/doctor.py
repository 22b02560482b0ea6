"""`kaalia doctor`: all that is wrong with the machine, with evidence, remedy and what ends it; what was, on request."""

import os
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console

from kaalia.cli import findings, output
from kaalia.cli.commands import canary
from kaalia.cli.programs import become
from kaalia.errors import ConfigError
from kaalia.health import book
from kaalia.health.book import Entry
from kaalia.model.canary import CanaryState
from kaalia.model.health import PastCondition, Severity
from kaalia.wire.health import HealthDocument


def add_to(app: typer.Typer) -> None:
    here = typer.Typer(add_completion=False, subcommand_metavar="[explain ID]")
    here.callback(invoke_without_command=True)(doctor)
    here.command(epilog="Examples: kaalia doctor explain disk_low; kaalia doctor explain xid_79")(explain)
    examples = "Examples: kaalia doctor; kaalia doctor explain xid_79; kaalia doctor --fix --dry-run"
    app.add_typer(here, name="doctor", epilog=examples)


def doctor(
    context: typer.Context,
    history: Annotated[bool, typer.Option("--history", help="Show what was wrong and is over.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without harm, after a yes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --fix: show each command, do nothing.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show what is wrong with this machine, how to mend it, and what ends it. Exit code 1: something must be mended."""
    if context.invoked_subcommand is not None:
        return
    if fix:
        options = [*(["--yes"] if yes else []), *(["--dry-run"] if dry_run else [])]
        paths = [*(["--config", str(config)] if config else []), *(["--socket", str(socket)] if socket else [])]
        become("kaalia.cli.commands.doctor_fix", [*options, *paths])
    if yes or dry_run:
        raise ConfigError("option_alone", "cannot use --yes or --dry-run alone", remedy="add --fix")
    document = output.connect(config, socket, dict(os.environ)).health()
    out = output.console()
    if as_json:
        output.print_json(document)
    elif history:
        _print_past(document.past, document.as_of, out)
    else:
        findings.print_open(document, out, _canary(document))
    raise typer.Exit(output.REFUSED if _must_be_mended(document) else output.OK)


def explain(
    condition: Annotated[str, typer.Argument(metavar="ID", help="As kaalia doctor names it, or an Xid: xid_79.")],
    as_json: output.AsJson = False,
) -> None:
    """Tell what a condition means, what to do and what ends it. Needs no running daemon."""
    found = book.find(condition)
    if found is None:
        near = book.near(condition)
        raise ConfigError(
            "condition_unknown",
            f"cannot explain {condition[:80]!r}: no condition has that id",
            remedy=f"perhaps {', '.join(near)}" if near else "kaalia doctor names the ids of what is wrong now",
        )
    if as_json:
        output.print_json(found)
    else:
        _print_entry(found, output.console())


def _print_entry(entry: Entry, out: Console) -> None:
    severity = entry.severity or "no condition: kept as history of the GPU"
    colour = findings.COLOURS[Severity(entry.severity)] if entry.severity else ""
    out.print(f"[bold]{entry.id}[/]  {f'[{colour}]{severity}[/]' if colour else severity}")
    findings.print_fields(
        (
            ("means", entry.says),
            ("meanwhile", entry.keeps_out),
            ("remedy", entry.remedy),
            ("ends when", entry.clears),
            ("source", entry.source),
        ),
        out,
    )
    if entry.has_fix:
        out.print("  kaalia doctor --fix can mend it.")


def _must_be_mended(document: HealthDocument) -> bool:
    return bool(document.problems) or any(one.condition.severity is not Severity.WARN for one in document.open)


def _canary(document: HealthDocument) -> str:
    if document.canary is None or document.canary == CanaryState():
        return ""
    return canary.line(document.canary, document.as_of)


def _print_past(past: tuple[PastCondition, ...], as_of: datetime, out: Console) -> None:
    if not past:
        out.print("Nothing was wrong that is over.")
        return
    rows = (
        (
            output.ago(one.until, as_of),
            output.span(one.until - one.since),
            str(one.condition.severity),
            one.condition.problem.code,
            findings.part(one.condition)[:20],
            one.condition.problem.message,
        )
        for one in past
    )
    output.print_table((">Ended", ">Lasted", "Severity", "Condition", "Part", "~What"), rows, out)
