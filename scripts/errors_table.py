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
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]:
        words = assigned(scope)
        for call in calls(scope):
            texts = [text(arg, words) for arg in call.args if not _is_number(arg)]
            if len(texts) < 2 or not texts[0].isidentifier() or not texts[0].islower():
                continue
            remedy = next((text(word.value, words) for word in call.keywords if word.arg == "remedy"), "")
            result.append(Entry(texts[0], texts[1], remedy))
    return result


def calls(scope: ast.AST) -> list[ast.Call]:
    """The calls that make errors, of this scope but not of functions inside it."""
    found = []
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name.endswith("Error") or name in ("Problem", "_refuse", "_invalid"):
                found.append(node)
        found += calls(node)
    return found


def assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """Sentences that a scope puts into a variable first."""
    return {
        node.targets[0].id: node.value
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant | ast.JoinedStr)
    }


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


def text(node: ast.expr, words: dict[str, ast.expr]) -> str:
    """A string expression with its values as {names}, fit for a table cell."""
    if isinstance(node, ast.Constant):
        return str(node.value).replace("|", "\\|").replace("\n", " ")
    if isinstance(node, ast.JoinedStr):
        return "".join(text(value, words) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value).replace("|", "\\|") + "}"
    if isinstance(node, ast.Name) and node.id in words:
        return text(words[node.id], words)
    return "…"


if __name__ == "__main__":
    sys.exit(main())
