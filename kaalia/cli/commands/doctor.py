"""`kaalia doctor`: all that is wrong with the machine, with evidence, remedy and what ends it; what was, on request."""

import os
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from kaalia.cli import output
from kaalia.model.health import HOST, Condition, OpenCondition, PastCondition, Severity
from kaalia.wire.health import HealthDocument

_ORDER = (Severity.CRITICAL, Severity.UNKNOWN, Severity.WARN)
_COLOURS = {Severity.CRITICAL: "bold red", Severity.UNKNOWN: "magenta", Severity.WARN: "yellow"}


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Examples: kaalia doctor; kaalia doctor --history; kaalia doctor --json | jq .open")(doctor)


def doctor(
    history: Annotated[bool, typer.Option("--history", help="Show what was wrong and is over.")] = False,
    config: output.ConfigFile = None,
    socket: output.SocketFile = None,
    as_json: output.AsJson = False,
) -> None:
    """Show what is wrong with this machine, how to mend it, and what ends it. Exit code 1: something must be mended."""
    document = output.connect(config, socket, dict(os.environ)).health()
    out = output.console()
    if as_json:
        output.print_json(document)
    elif history:
        _print_past(document.past, document.as_of, out)
    else:
        _print_open(document, out)
    raise typer.Exit(output.REFUSED if _must_be_mended(document) else output.OK)


def _must_be_mended(document: HealthDocument) -> bool:
    return bool(document.problems) or any(one.condition.severity is not Severity.WARN for one in document.open)


def _print_open(document: HealthDocument, out: Console) -> None:
    for problem in document.problems:
        output.print_problem(problem, out)
        out.print()
    for one in sorted(document.open, key=lambda each: (_ORDER.index(each.condition.severity), each.since)):
        _print_one(one, document.as_of, out)
        out.print()
    out.print(_summary(document))


def _print_one(one: OpenCondition, as_of: datetime, out: Console) -> None:
    found, problem = one.condition, one.condition.problem
    colour = _COLOURS[found.severity]
    out.print(f"[{colour}]{found.severity}[/] {escape(problem.message)} [dim]\\[{problem.code}][/]", soft_wrap=True)
    told = (
        ("part", "" if found.scope == HOST else found.scope),
        ("since", f"{output.moment(one.since)}, {output.ago(one.since, as_of)}"),
        ("seen", problem.evidence),
        ("remedy", problem.remedy),
        ("ends when", found.clears_when),
    )
    for name, text in told:
        if text:
            out.print(f"  [dim]{name}:[/] {escape(text)}", soft_wrap=True)


def _summary(document: HealthDocument) -> str:
    counts = [(sum(one.condition.severity is level for one in document.open), level) for level in _ORDER]
    words = [f"{count} {level}" for count, level in counts if count]
    words += [f"{len(document.problems)} of the daemon"] if document.problems else []
    return f"Wrong: {', '.join(words)}." if words else "Nothing is wrong."


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
            _part(one.condition),
            one.condition.problem.message,
        )
        for one in past
    )
    output.print_table((">Ended", ">Lasted", "Severity", "Condition", "Part", "~What"), rows, out)


def _part(condition: Condition) -> str:
    return "" if condition.scope == HOST else condition.scope[:20]
