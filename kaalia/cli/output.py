"""How the command line speaks: tables of at most 100 columns for people, JSON for programs, errors on stderr.

Colours and line drawing appear on a terminal only; what is piped is plain text.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kaalia.client import LocalClient
from kaalia.config import load
from kaalia.errors import ConfigError, KaaliaError, Problem, UnreachableError

WIDTH = 100

OK, REFUSED, COULD_NOT_RUN = 0, 1, 2
"""Exit codes: done; refused or unhealthy; wrong usage or configuration, or nobody to ask."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration; /etc/kaalia/kaalia.yaml if not given."),
]
SocketFile = Annotated[
    Path | None, typer.Option("--socket", metavar="FILE", help="The daemon's socket, instead of the configured one.")
]


def run(app: typer.Typer, args: Sequence[str], name: str) -> int:
    """Run a command line; returns the exit code of a failure, SystemExit carries every other one."""
    try:
        app(args=list(args), prog_name=name)
    except KaaliaError as error:
        return print_error(error)
    except BrokenPipeError:
        drop_stdout()
    return OK


def drop_stdout() -> None:
    """The reader, such as `head`, has seen enough: nothing more may be flushed into the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(*, stderr: bool = False) -> Console:
    plain = Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, width=min(plain.width, WIDTH) if plain.is_terminal else WIDTH)


def print_json(data: Any) -> None:
    sys.stdout.write(to_json(data, indent=2).decode() + "\n")


def print_error(error: KaaliaError) -> int:
    """Sentence, evidence and remedy on stderr; returns the exit code."""
    out = console(stderr=True)
    print_problem(error.problem, out)
    return COULD_NOT_RUN if isinstance(error, ConfigError | UnreachableError) else REFUSED


def print_problem(problem: Problem, out: Console) -> None:
    _print_told(f"[bold red]{escape(problem.message)}[/]", problem, out)


def print_warning(problem: Problem, out: Console) -> None:
    _print_told(f"[yellow]warning: {escape(problem.message)}[/]", problem, out)


def _print_told(headline: str, problem: Problem, out: Console) -> None:
    out.print(f"{headline} [dim]\\[{problem.code}][/]", soft_wrap=True)
    if problem.evidence:
        out.print(f"  [dim]seen:[/] {escape(problem.evidence)}", soft_wrap=True)
    if problem.remedy:
        out.print(f"  [dim]remedy:[/] {escape(problem.remedy)}", soft_wrap=True)


def print_pairs(pairs: Iterable[tuple[str, str]], out: Console) -> None:
    """Names on the left, values on the right; a value that is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, escape(value))
    out.print(grid)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], out: Console) -> None:
    """Flush right: a column whose name begins with `>`. Shortened when space is short: one that begins with `~`."""
    body = [tuple(row) for row in rows]
    names = [name.lstrip(">~") for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *body, strict=True)]
    cut = [name.startswith("~") for name in columns]
    fixed = sum(width for width, short in zip(widths, cut, strict=True) if not short) + 2 * len(columns)
    space = max(8, (out.width - fixed) // max(1, sum(cut)))
    table = Table(box=box.SIMPLE_HEAD if out.is_terminal else None, pad_edge=False, header_style="bold")
    for name, column, short in zip(names, columns, cut, strict=True):
        table.add_column(
            name,
            justify="right" if column.startswith(">") else "left",
            no_wrap=True,
            overflow="ellipsis",
            max_width=space if short else None,
        )
    for row in body:
        table.add_row(*map(escape, row))
    out.print(table)


def connect(config: Path | None, socket: Path | None, environment: dict[str, str]) -> LocalClient:
    """The client of the daemon that these options name."""
    return LocalClient(socket or load(config, environment).socket)


def ago(at: datetime, now: datetime) -> str:
    """`just now`, `12 s ago`, `3 h ago`; the future is `in 5 min`."""
    gap = now - at
    if abs(gap) < timedelta(seconds=1):
        return "just now"
    text = span(abs(gap))
    return f"{text} ago" if gap > timedelta(0) else f"in {text}"


def span(length: timedelta) -> str:
    """The length in its largest fitting unit."""
    seconds = int(length.total_seconds())
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds // size_s} {unit}"
    return f"{seconds} s"


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
