"""What a machine must have to be verified, and whether it has: one rule for its own self-test and the marketplace.

The requirements, with their sources, are `requirements.toml`. What is not known is not met: it can be proven.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from kaalia.contracts.requirement_facts import Facts
from kaalia.errors import ContractError
from kaalia.model.selftest import Outcome, RequirementVerdict

DEFAULT = "client"
"""The variant that decides."""
_YES_NO = frozenset({"avx", "quota"})
# When the module is imported, not in somebody's event loop.
_DATA: dict[str, Any] = tomllib.loads(
    (resources.files("kaalia.contracts") / "requirements.toml").read_text(encoding="utf-8")
)


class Bound(StrEnum):
    AT_LEAST = "at_least"
    ABOVE = "above"
    AT_MOST = "at_most"


_SIGNS = {Bound.AT_LEAST: ">=", Bound.ABOVE: ">", Bound.AT_MOST: "<="}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of `requirements.toml`, which says what each field means."""

    id: str
    says: str
    fact: str
    bound: Bound
    number: float
    unit: str
    source: str
    remedy: str
    per: str = ""
    over: float = 1.0
    least: float | None = None
    greatest: float | None = None
    is_advice: bool = False
    is_measured: bool = False
    is_of_gpu: bool = False


@cache
def book(variant: str = DEFAULT) -> tuple[Requirement, ...]:
    """All of them. Raises ContractError `requirements_unknown`."""
    data = _DATA
    if variant not in data["variants"]:
        names = ", ".join(data["variants"])
        message = f"cannot judge by the requirements {variant[:40]!r}: there are no such ones"
        raise ContractError("requirements_unknown", message, remedy=f"use one of {names}")
    return tuple(_requirement(entry, variant) for entry in data["requirement"])


def verdicts(facts: Facts, variant: str = DEFAULT) -> tuple[RequirementVerdict, ...]:
    """Each held against the machine, in the order of the data. Raises ContractError `requirements_unknown`."""
    return tuple(_verdict(one, facts) for one in book(variant))


def unmet(found: Iterable[RequirementVerdict]) -> tuple[RequirementVerdict, ...]:
    """Those that stand between the machine and its verification: not met, or not known."""
    return tuple(one for one in found if not one.is_advice and one.outcome is not Outcome.PASSED)


def required(one: Requirement, facts: Facts) -> float | None:
    """The number that this machine is held against. None: what it grows with is not known."""
    amount = _amount(one.per, facts)
    if amount is None:
        return None
    number = one.number * amount / one.over
    if one.least is not None:
        number = max(number, one.least)
    return number if one.greatest is None else min(number, one.greatest)


def _verdict(one: Requirement, facts: Facts) -> RequirementVerdict:
    actual: float | None = getattr(facts, one.fact)
    wanted = required(one, facts)
    if actual is None or wanted is None:
        outcome, words = Outcome.SKIPPED, f"{one.says}: not known"
    else:
        outcome, words = (Outcome.PASSED if _holds(one.bound, actual, wanted) else Outcome.FAILED), one.says
    return RequirementVerdict(
        requirement=one.id,
        outcome=outcome,
        words=words,
        actual=_shown(one, actual),
        required="not known" if wanted is None else _required(one, wanted),
        source=one.source,
        remedy="" if outcome is Outcome.PASSED else one.remedy,
        is_advice=one.is_advice or (one.is_of_gpu and facts.is_simulated),
    )


def _holds(bound: Bound, actual: float, wanted: float) -> bool:
    match bound:
        case Bound.AT_LEAST:
            return actual >= wanted
        case Bound.ABOVE:
            return actual > wanted
        case Bound.AT_MOST:
            return actual <= wanted


def _amount(per: str, facts: Facts) -> float | None:
    match per:
        case "":
            return 1.0
        case "gpu":
            return facts.gpus
        case "vram_gib":
            return facts.vram_total_mib / 1024
        case "vram_mib":
            return facts.vram_total_mib
        case "gpu_tflops":
            return facts.gpu_tflops
        case _:
            raise ValueError(f"requirements.toml: nothing grows with {per!r}")


def _required(one: Requirement, wanted: float) -> str:
    if one.fact in _YES_NO:
        return "yes"
    return f"{_SIGNS[one.bound]} {_shown(one, wanted)}"


def _shown(one: Requirement, value: float | None) -> str:
    if value is None:
        return "not known"
    if one.fact in _YES_NO:
        return "yes" if value else "no"
    digits = 3 if one.fact == "reliability" else 2
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return f"{text} {one.unit}".rstrip()


def _requirement(entry: Mapping[str, Any], variant: str) -> Requirement:
    told = {**entry, **entry.get("variants", {}).get(variant, {})}
    return Requirement(
        id=told["id"],
        says=told["says"],
        fact=told["fact"],
        bound=Bound(told["bound"]),
        number=float(told["number"]),
        unit=told["unit"],
        source=told["source"],
        remedy=told["remedy"],
        per=told.get("per", ""),
        over=float(told.get("over", 1.0)),
        least=told.get("least"),
        greatest=told.get("greatest"),
        is_advice=told.get("advice", False),
        is_measured=told.get("measured", False),
        is_of_gpu=told.get("of_gpu", False),
    )


def variants() -> dict[str, str]:
    """Name -> whose requirements they are."""
    return dict(_DATA["variants"])
