"""Reads the Grafana dashboard: its panels, what they ask of Prometheus, and which metrics and labels that names."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "docs" / "grafana" / "kaalia.json"

_SELECTOR = re.compile(r"\b((?:kaalia|process)_\w+)\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Question:
    """One expression of a panel. `shown`: the labels that its legend names."""

    panel: str
    expression: str
    shown: frozenset[str]

    @property
    def selected(self) -> list[tuple[str, frozenset[str]]]:
        """Each metric with the labels that it is chosen by."""
        found = _SELECTOR.findall(self.expression)
        return [(name, frozenset(_MATCHER.findall(matchers))) for name, matchers in found]

    @property
    def grouped(self) -> frozenset[str]:
        """Labels that are joined or summed by."""
        return frozenset(
            label.strip() for group in _GROUPING.findall(self.expression) for label in group.split(",") if label.strip()
        )


def load() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(PATH.read_text())
    return board


def questions(board: dict[str, Any]) -> Iterator[Question]:
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield Question(panel["title"], target["expr"], frozenset(_LEGEND.findall(target["legendFormat"])))
