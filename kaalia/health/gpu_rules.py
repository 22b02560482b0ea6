"""The catalogue of what can be wrong with GPUs, gpu.toml, as types. Pure but for reading it."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kaalia.model.health import Severity

_FILE = Path(__file__).with_name("gpu.toml")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry. `fact` "": the code decides when it is so. `samples`, `clear_samples`: readings in a row."""

    id: str
    severity: Severity
    says: str
    remedy: str
    clears: str
    source: str
    fact: str = ""
    above: float | None = None
    below: float | None = None
    samples: int = 1
    clear_samples: int = 1
    hidden_by: tuple[str, ...] = ()
    blocks: bool = True

    @property
    def lasts(self) -> bool:
        """It is about some minutes: only readings at their turn tell it."""
        return self.samples > 2 or self.clear_samples > 1

    @property
    def limit(self) -> float:
        return self.above if self.above is not None else self.below or 0.0

    def is_wrong(self, value: float) -> bool:
        return value > self.limit if self.above is not None else value < self.limit


@dataclass(frozen=True, slots=True)
class Book:
    """`errors`, `driver_errors`: NVML's error by name -> id of a rule. `absent`: errors that are none."""

    rules: Mapping[str, Rule]
    errors: Mapping[str, str]
    driver_errors: Mapping[str, str]
    absent: frozenset[str]
    load_percent: float
    window: int
    removed_h: float
    old_after: float


@cache
def book() -> Book:
    """As shipped. What is wrong there raises: tests read every entry."""
    found = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    rules = [_rule(entry) for entry in found["condition"]]
    return Book(
        {rule.id: rule for rule in rules},
        found["error"],
        found["driver_error"],
        frozenset(found["absent"]),
        found["load_percent"],
        found["window"],
        found["removed_h"],
        found["old_after"],
    )


def _rule(entry: Mapping[str, Any]) -> Rule:
    more = {"severity": Severity(entry["severity"]), "hidden_by": tuple(entry.get("hidden_by", ()))}
    # `fix` is for people only: see health/book.py.
    return Rule(**{name: value for name, value in {**entry, **more}.items() if name != "fix"})
