"""What a machine's conditions do to its verification, by the data of `impact.toml`. Pure."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from kaalia.contracts.fitness import MESSAGE_MAX_CHARS, Fault
from kaalia.model.health import HOST, OpenCondition, Severity

TOLD_MAX = 64
"""Of one post: a machine of which more is wrong is not verified anyway."""
_GPU = "GPU-"
# When the module is imported, not in somebody's event loop.
_DATA: dict[str, Any] = tomllib.loads((resources.files("kaalia.contracts") / "impact.toml").read_text(encoding="utf-8"))


class Impact(StrEnum):
    MACHINE = "machine"
    VM = "vm"
    RENTAL = "rental"


@dataclass(frozen=True, slots=True)
class Effect:
    """An entry of `impact.toml`, which says what each field means."""

    ids: tuple[str, ...]
    severities: frozenset[Severity]
    impact: Impact
    says: str
    source: str
    grace: timedelta = timedelta(0)
    needs_test: bool = False


def effect(code: str, severity: Severity) -> Effect | None:
    """None: it costs no verification."""
    return next((one for one in named(code) if severity in one.severities), None)


def level(code: str) -> Impact | None:
    """Of a condition that was heard of as one with an effect."""
    return next((one.impact for one in named(code)), None)


def named(code: str) -> tuple[Effect, ...]:
    """Of all severities, in the order of the data."""
    return tuple(one for one in effects() if any(fnmatchcase(code, pattern) for pattern in one.ids))


def told(found: Iterable[OpenCondition]) -> tuple[Fault, ...]:
    """Those of a machine's conditions that its marketplace may take the verification back for, the worst first.

    A marketplace of a newer version may know more of them than this list: whatever is critical goes too.
    """
    wanted = [
        one
        for one in found
        if one.condition.severity is Severity.CRITICAL
        or effect(one.condition.problem.code, one.condition.severity) is not None
    ]
    wanted.sort(key=lambda one: (one.condition.severity is not Severity.CRITICAL, one.since))
    return tuple(_fault(one) for one in wanted[:TOLD_MAX])


@cache
def effects() -> tuple[Effect, ...]:
    return tuple(_effect(entry) for entry in _DATA["cause"])


@cache
def settle() -> timedelta:
    """A fault must have been gone for so long."""
    return timedelta(minutes=float(_DATA["settle"]["minutes"]))


def _fault(one: OpenCondition) -> Fault:
    condition = one.condition
    found = effect(condition.problem.code, condition.severity)
    is_told = condition.scope.startswith(_GPU) or (found is not None and found.impact is Impact.RENTAL)
    # Which contract or container another one is of concerns nobody but the owner.
    scope = condition.scope if is_told else HOST
    message = condition.problem.message[:MESSAGE_MAX_CHARS]
    return Fault(scope, condition.problem.code, condition.severity, one.since, message)


def _effect(entry: dict[str, Any]) -> Effect:
    return Effect(
        ids=tuple(entry["ids"]),
        severities=frozenset(Severity(one) for one in entry["severities"]),
        impact=Impact(entry["impact"]),
        says=entry["says"],
        source=entry["source"],
        grace=timedelta(minutes=float(entry.get("grace_min", 0))),
        needs_test=bool(entry.get("retest", False)),
    )
