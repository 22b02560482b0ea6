"""Writes docs/errors.md from the source: every stable error code with its sentence, remedy and place.

`--check` compares instead of writing, and exits 1 when the page is out of date.
"""

import ast
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Errors

Every refusal and failure has a stable code. It stands in `error` of the REST API, in `problem.code` of a
contract's status, in brackets at the end of a log line, and here. Made from the source by `scripts/format`.

| Code | Sentence | Remedy | Where |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Entry:
    code: str
    sentence: str
    remedy: str


def main() -> int:
    found: dict[Entry, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "kaalia").rglob("*.py")):
        for entry in entries(ast.parse(path.read_text())):
            found[entry].add(str(path.relative_to(ROOT / "kaalia")))
    ordered = sorted(found.items(), key=lambda item: (item[0].code, item[0].sentence))
    rows = [
        f"| `{entry.code}` | {entry.sentence} | {entry.remedy} | {', '.join(sorted(places))} |"
        for entry, places in ordered
    ]
    page = HEAD + "\n".join(rows) + "\n"
    if "--check" in sys.argv:
        if PAGE.read_text() != page:
            print("docs/errors.md is out of date: run scripts/format", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page)
    return 0


def entries(tree: ast.AST) -> list[Entry]:
    """Every `SomethingError("code", "sentence", remedy=...)` and `Problem(...)` whose code is written out."""
    result = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if not (name.endswith("Error") or name in ("Problem", "_refuse", "_invalid")):
            continue
        texts = [text(arg) for arg in node.args if not isinstance(arg, ast.Constant) or isinstance(arg.value, str)]
        if len(texts) < 2 or not texts[0].isidentifier() or not texts[0].islower():
            continue
        remedy = next((text(word.value) for word in node.keywords if word.arg == "remedy"), "")
        result.append(Entry(texts[0], texts[1], remedy))
    return result


def text(node: ast.expr) -> str:
    """A string expression with its values as {names}, fit for a table cell."""
    if isinstance(node, ast.Constant):
        return str(node.value).replace("|", "\\|").replace("\n", " ")
    if isinstance(node, ast.JoinedStr):
        return "".join(text(value) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value).replace("|", "\\|") + "}"
    return "…"


if __name__ == "__main__":
    sys.exit(main())
