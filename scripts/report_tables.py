"""Writes the tables of docs/report.md, and docs/report.schema.json, from kaalia/wire/report_fields.py.

`--check` compares instead of writing, and exits 1 when one is out of date.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kaalia.wire.report_fields import LISTS, SAYS, SECTIONS, Field
from kaalia.wire.report_schema import schema

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "report.md"
SCHEMA = DOCS / "report.schema.json"
_MARKS = re.compile(r"(<!-- made by scripts/format: fields -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    tables = "\n".join(line for name, fields in ({**SECTIONS, **LISTS}).items() for line in table(name, fields))
    page = _MARKS.sub(lambda match: f"{match[1]}{tables}\n{match[2]}", PAGE.read_text(), count=1)
    wanted = {PAGE: page, SCHEMA: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"}
    if "--check" not in sys.argv:
        for path, text in wanted.items():
            path.write_text(text)
        return 0
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if stale:
        print(f"docs: out of date: {', '.join(stale)}: run scripts/format", file=sys.stderr)
    return 1 if stale else 0


def table(name: str, fields: tuple[Field, ...]) -> Iterator[str]:
    yield f"### {name}{'[]' if name in LISTS else ''}\n\n{SAYS[name]}\n"
    yield "| Field | Kind | Unit | Method |\n|---|---|---|---|"
    for field in fields:
        kind = field.kind if field.kind != "records" else f"records of {', '.join(name for name, _ in field.columns)}"
        yield f"| `{field.name}` | {kind} | {field.unit} | {field.method} |"
    yield ""


if __name__ == "__main__":
    sys.exit(main())
