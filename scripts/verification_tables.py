"""Writes the tables of docs/verification.md from kaalia/contracts/requirements.toml and impact.toml.

`--check` compares instead of writing, and exits 1 when they are out of date.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kaalia.contracts import impact, requirements
from kaalia.contracts.requirements import Bound, Requirement

PAGE = Path(__file__).resolve().parents[1] / "docs" / "verification.md"
_SIGNS = {Bound.AT_LEAST: "at least", Bound.ABOVE: "more than", Bound.AT_MOST: "at most"}
_PER = {
    "gpu": "GPUs",
    "vram_gib": "GiB of all GPUs",
    "vram_mib": "MiB of all GPUs",
    "gpu_tflops": "TFLOPS of a GPU",
}
_FLAGS = frozenset({"avx", "quota"})


def main() -> int:
    page = PAGE.read_text()
    for name, lines in (("requirements", requirement_rows()), ("impact", impact_rows())):
        page = filled(page, name, "\n".join(lines))
    if "--check" not in sys.argv:
        PAGE.write_text(page)
        return 0
    is_stale = PAGE.read_text() != page
    if is_stale:
        print("docs/verification.md is out of date: run scripts/format", file=sys.stderr)
    return 1 if is_stale else 0


def filled(page: str, name: str, table: str) -> str:
    marks = re.compile(rf"(<!-- made by scripts/format: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(page):
        raise SystemExit(f"docs/verification.md has no place for the table {name}")
    return marks.sub(lambda match: f"{match[1]}{table}\n{match[2]}", page, count=1)


def requirement_rows() -> Iterator[str]:
    others = [name for name in requirements.variants() if name != requirements.DEFAULT]
    yield f"| Requirement | Says | Required | {' | '.join(f'`{name}`' for name in others)} | Source | Remedy |"
    yield "|---" * (5 + len(others)) + "|"
    books = {name: {one.id: one for one in requirements.book(name)} for name in requirements.variants()}
    for one in requirements.book():
        kind = f"{bound(one)}; advice" if one.is_advice else bound(one)
        variants = [bound(books[name][one.id]) if books[name][one.id] != one else "" for name in others]
        yield f"| `{one.id}` | {one.says} | {kind} | {' | '.join(variants)} | {one.source} | {one.remedy} |"


def bound(one: Requirement) -> str:
    if one.fact in _FLAGS:
        return "yes"
    words = f"{_SIGNS[one.bound]} {one.number:g} {one.unit}".rstrip()
    if not one.per:
        return words
    words += f" x {_PER[one.per]}" + (f" / {one.over:g}" if one.over != 1 else "")
    limits = [f"never below {one.least:,.0f}"] if one.least is not None else []
    limits += [f"never above {one.greatest:,.0f}"] if one.greatest is not None else []
    return ", ".join([words, *limits])


def impact_rows() -> Iterator[str]:
    yield "| Conditions | Say | Impact | Counts after | A new test is needed | Source |"
    yield "|---|---|---|---|---|---|"
    for one in impact.effects():
        ids = ", ".join(f"`{each}`" for each in one.ids)
        minutes = one.grace.total_seconds() / 60
        after = "" if one.impact is not impact.Impact.MACHINE else f"{minutes:g} min" if minutes else "at once"
        test = "yes" if one.needs_test else ""
        yield f"| {ids} | {one.says} | {one.impact} | {after} | {test} | {one.source} |"


if __name__ == "__main__":
    sys.exit(main())
