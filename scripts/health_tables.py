"""Writes the tables of docs/health.md from the catalogues of kaalia/health.

`--check` compares instead of writing, and exits 1 when the page is out of date, or when the code tells a condition that
no catalogue explains.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kaalia.health.book import entries  # noqa: E402
from kaalia.health.kernel_lines import Action, catalogue  # noqa: E402
from scripts import errors_table  # noqa: E402

PAGE = ROOT / "docs" / "health.md"
TOLD_BY_OTHERS = (
    *("contracts/remedies.py", "contracts/amendment.py", "contracts/disk.py", "contracts/speed.py"),
    *("runtime/container/reading.py", "runtime/sandbox/ipv6.py", "tunnel/ssh.py", "tunnel/tunnel.py"),
    *("speed/mover.py", "sync/prober.py", "api/status.py"),
)
"""Files whose problems become conditions elsewhere."""
_NO_SNAPSHOT = ("snapshot_invalid", "snapshot_foreign", "snapshot_incomplete", "snapshot_stale")
NO_CONDITIONS = frozenset({"speed_tenants_came", "speed_withdrawn", *_NO_SNAPSHOT})
"""Codes of the files that are searched that are never told as conditions."""


def main() -> int:
    before = PAGE.read_text()
    after = before
    for name, rows in (("xids", xids()), ("lines", lines()), *((area, table(area)) for area in areas())):
        after = filled(after, name, "\n".join(rows))
    if "--check" not in sys.argv:
        PAGE.write_text(after)
    elif after != before:
        print("docs/health.md is out of date: run scripts/format", file=sys.stderr)
        return 1
    missing = unexplained()
    for code, place in missing:
        print(f"{place} tells {code}, and no catalogue in kaalia/health explains it", file=sys.stderr)
    return 1 if missing else 0


def unexplained() -> list[tuple[str, str]]:
    """Code and file of every condition that the code tells and the catalogue does not have."""
    return [(code, place) for code, place in told() if code not in entries() and code not in NO_CONDITIONS]


def told() -> Iterator[tuple[str, str]]:
    """Every code that a condition may have, by what is written in the code."""
    for path in sorted((ROOT / "kaalia").rglob("*.py")):
        name = str(path.relative_to(ROOT / "kaalia"))
        tree = ast.parse(path.read_text())
        if name in TOLD_BY_OTHERS or _makes_conditions(tree):
            yield from ((entry.code, name) for entry in errors_table.entries(tree))


def _makes_conditions(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Condition" for node in ast.walk(tree))


def filled(page: str, name: str, table: str) -> str:
    marks = re.compile(rf"(<!-- made by scripts/format: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(page):
        raise SystemExit(f"docs/health.md has no place for the table {name}: <!-- made by scripts/format: {name} -->")
    return marks.sub(lambda match: f"{match[1]}{table}\n{match[2]}", page, count=1)


def areas() -> list[str]:
    """Catalogues that have a table of their own shape; kernel.toml and xid.toml have others."""
    return sorted({one.area for one in entries().values()} - {"xid", "kernel"})


def table(area: str) -> Iterator[str]:
    yield "| Condition | Says | Severity | Remedy | Ends when | Source |"
    yield "|---|---|---|---|---|---|"
    for one in entries().values():
        if one.area == area:
            cells = (f"`{one.id}`", one.says, one.severity, one.remedy, one.clears, one.source)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


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
    yield "| Condition | Says | Severity | Keeps out | Remedy | Ends | Source |"
    yield "|---|---|---|---|---|---|---|"
    for line in catalogue().lines:
        rule = line.action
        keeps_out = "new rentals" if rule.blocks else ""
        cells = (f"`{line.id}`", line.says, rule.severity, keeps_out, rule.remedy, ends(rule, "reboot"), line.source)
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def ends(action: Action, otherwise: str) -> str:
    if action.severity is None:
        return "-"
    return otherwise if action.quiet_h is None else f"{action.quiet_h:g} h without another, reboot"


if __name__ == "__main__":
    sys.exit(main())
