"""What a proof found: counts of what it tried, and every violation in words."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Say = Callable[[str], None]


@dataclass
class Report:
    say: Say
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def check(self, what: str, held: bool, seen: object = "") -> None:
        """Count a check; a broken one is a violation."""
        self.counts["checks"] += 1
        if not held:
            self.violations.append(f"{what}: {seen}")
            self.say(f"VIOLATION {what}: {seen}")

    def worst(self, name: str, value: float) -> None:
        """Keep the greatest value of a figure."""
        self.figures[name] = round(max(value, self.figures.get(name, value)), 3)

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.counts,
            **self.figures,
            "violations": len(self.violations),
            "violation_texts": self.violations[:20],
        }
