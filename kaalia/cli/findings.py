"""How the command line shows what is wrong: the worst first, the same fault of several parts once, an overview of many.

On a terminal long words wrap below themselves; what is piped has one line for each thing, for grep.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from kaalia.cli import output
from kaalia.contracts import fitness
from kaalia.health import book
from kaalia.model.health import HOST, Condition, OpenCondition, Severity
from kaalia.wire.health import HealthDocument

ORDER = (Severity.CRITICAL, Severity.UNKNOWN, Severity.WARN)
COLOURS = {Severity.CRITICAL: "bold red", Severity.UNKNOWN: "magenta", Severity.WARN: "yellow"}
ALIKE_MIN = 3
"""So many of one code are shown as one."""
MANY = 5
"""More than so many, and an overview follows."""
_PART = "PART"


def print_open(document: HealthDocument, out: Console, canary: str = "") -> None:
    """All that is wrong now. `canary`: its line, which stands before the sum."""
    for problem in document.problems:
        output.print_problem(problem, out)
        out.print()
    groups = _groups(document.open)
    for group in groups:
        if len(group) == 1:
            _print_one(group[0], document.as_of, out)
        else:
            _print_alike(group, document.as_of, out)
        out.print()
    if len(groups) > MANY:
        _print_overview(groups, document.as_of, out)
        out.print()
    if canary:
        out.print(canary)
    out.print(_summary(document))


def print_fields(fields: Iterable[tuple[str, str]], out: Console) -> None:
    """Name and text of each that is not empty."""
    shown = [(name, text) for name, text in fields if text]
    if not out.is_terminal:
        for name, text in shown:
            out.print(f"  {name}: {escape(text)}", soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in shown:
        grid.add_row(f"{name}:", escape(text))
    out.print(Padding(grid, (0, 0, 0, 2)))


def part(condition: Condition) -> str:
    """Of which part it is; "" for the whole machine."""
    return "" if condition.scope == HOST else condition.scope


def _groups(found: Iterable[OpenCondition]) -> list[tuple[OpenCondition, ...]]:
    """The worst first, of those the oldest; what many parts have in common is one."""
    ordered = sorted(found, key=lambda each: (ORDER.index(each.condition.severity), each.since))
    alike: defaultdict[tuple[Severity, str], list[OpenCondition]] = defaultdict(list)
    for one in ordered:
        alike[one.condition.severity, one.condition.problem.code].append(one)
    groups: list[tuple[OpenCondition, ...]] = []
    for group in alike.values():
        groups += [tuple(group)] if len(group) >= ALIKE_MIN else [(one,) for one in group]
    return groups


def _print_one(one: OpenCondition, as_of: datetime, out: Console) -> None:
    found, problem = one.condition, one.condition.problem
    _print_head(found.severity, problem.message, problem.code, out)
    print_fields(
        (
            ("part", part(found)),
            ("since", _since(one.since, as_of)),
            ("seen", problem.evidence),
            ("meanwhile", fitness.keeps_out(one)),
            ("remedy", problem.remedy),
            ("ends when", found.clears_when),
        ),
        out,
    )


def _print_alike(group: Sequence[OpenCondition], as_of: datetime, out: Console) -> None:
    first = group[0].condition
    _print_head(first.severity, f"{first.problem.message}, and {len(group) - 1} like it", first.problem.code, out)
    seen = list(dict.fromkeys(one.condition.problem.evidence for one in group))
    shared = seen[0] if len(seen) == 1 else ""
    remedies = list(dict.fromkeys(_general(one.condition, one.condition.problem.remedy) for one in group))
    ends = list(dict.fromkeys(_general(one.condition, one.condition.clears_when) for one in group))
    print_fields(
        (
            *(("part", _told(one, shared)) for one in group),
            ("since", _since(min(one.since for one in group), as_of)),
            ("seen", shared),
            ("meanwhile", "; ".join(sorted({fitness.keeps_out(one) for one in group} - {""}))),
            *(("remedy", each) for each in remedies),
            *(("ends when", each) for each in ends),
        ),
        out,
    )


def _told(one: OpenCondition, shared: str) -> str:
    name, evidence = part(one.condition) or "this machine", one.condition.problem.evidence
    return name if evidence == shared else f"{name}: {evidence}"


def _general(condition: Condition, text: str) -> str:
    """The same words for all parts."""
    return text if condition.scope == HOST else text.replace(condition.scope, _PART)


def _print_head(severity: Severity, message: str, code: str, out: Console) -> None:
    head = f"[{COLOURS[severity]}]{severity}[/] {escape(message)} [dim]\\[{code}][/]"
    out.print(head, soft_wrap=not out.is_terminal)


def _print_overview(groups: Iterable[Sequence[OpenCondition]], as_of: datetime, out: Console) -> None:
    rows = []
    for group in groups:
        first = group[0].condition
        parts = part(first)[:24] if len(group) == 1 else f"{len(group)} parts"
        since = output.ago(min(one.since for one in group), as_of)
        fix = "--fix" if _has_fix(first.problem.code) else ""
        rows.append((str(first.severity), first.problem.code, parts, since, fix))
    output.print_table(("Severity", "Condition", "Part", ">Since", "Mended by"), rows, out)


def _summary(document: HealthDocument) -> str:
    counts = [(sum(one.condition.severity is level for one in document.open), level) for level in ORDER]
    words = [f"{count} {level}" for count, level in counts if count]
    words += [f"{len(document.problems)} of the daemon"] if document.problems else []
    if not words:
        return "Nothing is wrong."
    codes = {one.condition.problem.code for one in document.open}
    mendable = sum(_has_fix(code) for code in codes)
    more = f" kaalia doctor --fix can mend {mendable} of {len(codes)} faults." if mendable else ""
    return f"Wrong: {', '.join(words)}.{more}"


def _has_fix(code: str) -> bool:
    entry = book.entries().get(code)
    return entry is not None and entry.has_fix


def _since(since: datetime, as_of: datetime) -> str:
    return f"{output.moment(since)}, {output.ago(since, as_of)}"
