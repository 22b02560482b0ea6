"""How GPUs did while they were loaded: what their readings say, held against the rules of under_load.toml. Pure."""

import statistics
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from kaalia.model.selftest import Figure

LOAD_PERCENT = 50.0
"""A reading with less use than this is not of the load: judged by it are only counters."""
FEW = 3
"""Readings under load: fewer say nothing of shares and clocks."""
HEAT, POWER_BRAKE = 0x20 | 0x40, 0x80
HARDWARE = 0x08 | POWER_BRAKE
BY_DESIGN = 0x01 | 0x02 | 0x04 | 0x10
"""Idle, set so by the owner, at its power limit, in step with others. Bits: NVML API, nvmlClocksEventReasons."""


@dataclass(frozen=True, slots=True)
class Moment:
    """`facts` of each GPU by UUID, as in model/gpu_health.py; one that is not there was lost. `at_s`: any clock."""

    at_s: float
    facts: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a GPU broke. `is_advice`: it is told, and fails nothing."""

    code: str
    gpu_uuid: str
    words: str
    remedy: str
    is_advice: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    code: str
    measure: str
    above: float | None
    below: float | None
    says: str
    remedy: str
    is_advice: bool

    def is_broken(self, value: float) -> bool:
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


@dataclass(frozen=True, slots=True)
class _View:
    """One GPU. `all`: its readings from before the load to after it; `loaded`: those under load."""

    all: Sequence[Mapping[str, float]]
    loaded: Sequence[Mapping[str, float]]
    passed_s: float
    is_lost: bool


def judge(moments: Sequence[Moment]) -> tuple[Broken, ...]:
    """The first moment is before the load. By rule, then by GPU."""
    views = _views(moments)
    return tuple(
        Broken(rule.code, uuid, rule.says.format(value=value), rule.remedy, rule.is_advice)
        for rule in _rules()
        for uuid, view in views.items()
        if (value := _MEASURES[rule.measure](view)) is not None and rule.is_broken(value)
    )


def figures(moments: Sequence[Moment]) -> Iterator[Figure]:
    """What is worth telling of each GPU."""
    for uuid, view in _views(moments).items():
        for name, unit, value in (
            ("temperature_max_c", "°C", _greatest(view, "temperature_c")),
            ("clock_mhz", "MHz", _median(view, "sm_clock_mhz")),
            ("power_w", "W", _median(view, "power_draw_w")),
            ("thermal_share", "", _thermal_share(view)),
            ("ecc_grown", "errors", _grown(view, "ecc_volatile_uncorrected")),
            ("ecc_corrected_grown", "errors", _grown(view, "ecc_volatile_corrected")),
        ):
            if value is not None:
                yield Figure(name, round(value, 3), unit, uuid)


def _views(moments: Sequence[Moment]) -> dict[str, _View]:
    if not moments:
        return {}
    passed_s = moments[-1].at_s - moments[0].at_s
    found = {}
    for uuid in moments[0].facts:
        read = [moment.facts[uuid] for moment in moments if uuid in moment.facts]
        # What tells no use is taken as loaded: these readings are made while it works.
        loaded = [facts for facts in read[1:] if facts.get("utilization_percent", 100.0) >= LOAD_PERCENT]
        found[uuid] = _View(read, loaded, passed_s, is_lost=len(read) < len(moments))
    return found


def _grown(view: _View, fact: str) -> float | None:
    """None: it is not told, or began anew."""
    values = [facts[fact] for facts in view.all if fact in facts]
    return values[-1] - values[0] if len(values) > 1 and values[-1] >= values[0] else None


def _corrected_per_min(view: _View) -> float | None:
    """Whole errors a minute; of a load that took less, all of them."""
    grown = _grown(view, "ecc_volatile_corrected")
    return None if grown is None else grown // max(1.0, view.passed_s / 60)


def _median(view: _View, fact: str) -> float | None:
    values = [facts[fact] for facts in view.loaded if fact in facts]
    return statistics.median(values) if values else None


def _greatest(view: _View, fact: str) -> float | None:
    return max((facts[fact] for facts in view.all[1:] if fact in facts), default=None)


def _over(value: str, limit: str) -> Callable[[_View], float | None]:
    """Boards without the sensor tell 0 for it."""

    def over(view: _View) -> float | None:
        greatest, most = _greatest(view, value), _greatest(view, limit)
        return None if not greatest or not most else greatest - most

    return over


def _share(bits: int) -> Callable[[_View], float | None]:
    """One reading alone is none: NVML may tell of a slowdown while clocks change (nvmlClocksEventReasonHwSlowdown)."""

    def share(view: _View) -> float | None:
        reasons = [int(facts["clock_reasons"]) for facts in view.loaded if "clock_reasons" in facts]
        found = sum(bool(one & bits) for one in reasons)
        return (found if found > 1 else 0) / len(reasons) if len(reasons) >= FEW else None

    return share


def _thermal_share(view: _View) -> float | None:
    """By the driver's clock of it, or by the reasons on models that have none."""
    grown = _grown(view, "thermal_slowed_s")
    if grown is not None and view.passed_s > 0:
        return min(1.0, grown / view.passed_s)
    return _share(HEAT)(view)


def _clock_share(view: _View) -> float | None:
    """Of readings in which nothing that is meant so kept it low."""
    shares = [
        facts["sm_clock_mhz"] / facts["sm_clock_max_mhz"]
        for facts in view.loaded
        if facts.get("sm_clock_max_mhz") and "sm_clock_mhz" in facts
        if "clock_reasons" in facts and not int(facts["clock_reasons"]) & BY_DESIGN
    ]
    return statistics.median(shares) if len(shares) >= FEW else None


def _clock_held_share(view: _View) -> float | None:
    clocks = [facts["sm_clock_mhz"] for facts in view.loaded if facts.get("sm_clock_mhz")]
    third = len(clocks) // 3
    return statistics.median(clocks[-third:]) / statistics.median(clocks[:third]) if third >= FEW else None


_MEASURES: Mapping[str, Callable[[_View], float | None]] = {
    "lost": lambda view: float(view.is_lost),
    "ecc_grown": lambda view: _grown(view, "ecc_volatile_uncorrected"),
    "ecc_corrected_per_min": _corrected_per_min,
    "rows_failed_grown": lambda view: _grown(view, "rows_failed"),
    "rows_pending_grown": lambda view: _grown(view, "rows_pending"),
    "power_brake_share": _share(POWER_BRAKE),
    "hw_slowdown_share": _share(HARDWARE),
    "thermal_share": _thermal_share,
    "temperature_over_c": _over("temperature_c", "temperature_limit_c"),
    "memory_over_c": _over("memory_c", "memory_limit_c"),
    "clock_held_share": _clock_held_share,
    "clock_share": _clock_share,
}


@cache
def _rules() -> tuple[_Rule, ...]:
    text = (resources.files("kaalia.contracts") / "under_load.toml").read_text(encoding="utf-8")
    return tuple(_rule(entry) for entry in tomllib.loads(text)["rule"])


def _rule(entry: Mapping[str, Any]) -> _Rule:
    return _Rule(
        *(entry["code"], entry["measure"], entry.get("above"), entry.get("below")),
        says=entry["says"],
        remedy=entry["remedy"],
        is_advice=entry.get("advice", False),
    )
