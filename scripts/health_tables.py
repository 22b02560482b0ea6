"""Writes the tables of docs/health.md from the catalogues of kaalia/health.

`--check` compares instead of writing, and exits 1 when the page is out of date.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kaalia.health.gpu_rules import book
from kaalia.health.kernel_lines import Action, catalogue

PAGE = Path(__file__).resolve().parents[1] / "docs" / "health.md"


def main() -> int:
    before = PAGE.read_text()
    after = filled(filled(before, "xids", "\n".join(xids())), "lines", "\n".join(lines()))
    after = filled(after, "gpu", "\n".join(gpus()))
    if "--check" in sys.argv:
        if after != before:
            print("docs/health.md is out of date: run scripts/format", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(after)
    return 0


def filled(page: str, name: str, table: str) -> str:
    marks = re.compile(rf"(<!-- made by scripts/format: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    return marks.sub(lambda match: f"{match[1]}{table}\n{match[2]}", page, count=1)


def xids() -> Iterator[str]:
    """A row for each action: the numbers that ask for it."""
    book = catalogue()
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, (name, _) in sorted(book.xids.items()):
        numbers[name].append(number)
    yield "| Xids | Severity | Remedy | Ends |"
    yield "|---|---|---|---|"
    for name, action in book.actions.items():
        shown = ", ".join(map(str, numbers[name])) or "any other"
        yield f"| {shown} | {action.severity or 'none'} | {action.remedy} | {ends(action, 'Xid 154, reboot')} |"


def lines() -> Iterator[str]:
    yield "| Condition | Says | Severity | Remedy | Ends | Source |"
    yield "|---|---|---|---|---|---|"
    for line in catalogue().lines:
        rule = line.action
        cells = (f"`{line.id}`", line.says, rule.severity, rule.remedy, ends(rule, "reboot"), line.source)
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def gpus() -> Iterator[str]:
    yield "| Condition | Says | Severity | Remedy | Ends when | Source |"
    yield "|---|---|---|---|---|---|"
    for rule in book().rules.values():
        cells = (f"`{rule.id}`", rule.says, rule.severity, rule.remedy, rule.clears, rule.source)
        yield f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def ends(action: Action, otherwise: str) -> str:
    if action.severity is None:
        return "-"
    return otherwise if action.quiet_h is None else f"{action.quiet_h:g} h without another, reboot"


if __name__ == "__main__":
    sys.exit(main())
