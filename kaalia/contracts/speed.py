"""From counted bytes to a speed with its confidence, and whether a test may run beside tenants. Pure.

TCP begins slowly, so the beginning is left out. What remains is cut into steps; the rate is that of all of it, and how
much the steps differ says how far it may be trusted. Steps that follow each other are not independent: the margin is a
lower bound of the doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from kaalia.errors import HostError
from kaalia.model.speed import Confidence, Direction, Figure, MeasuredSpeed

METHOD = "parallel TCP streams of random bytes, counted by the receiving side"
WARM_UP_S = 1.5
"""Slow start reaches 10 Gb/s at 100 ms of delay within about 1.3 s; of a short test at most a quarter is left out."""
STEP_S = 0.5
SHORT_STEP_S = 0.2
"""Of a test that ended early, since its bytes were used up: twice as long as the pause between two samples."""
STEPS, STEPS_LEAST = 16, 4
LEAST_BYTES = 64 * 1024
"""Of one direction: less is no measurement of any line."""
LEAST_MBPS = 0.01
_T95 = {3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23, 12: 2.18, 15: 2.13, 20: 2.09, 30: 2.04}
"""Student's t for 95 %, two-sided, by degrees of freedom."""

BUSY_MBPS = 10.0
"""Tenants that move more than this with the internet, all together, are not to be disturbed by a test."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process: all bytes so far at a moment of the machine's monotonic clock."""

    at_s: float
    total_bytes: int


def figure(direction: Direction, counted: Sequence[Sequence[Sample]], cpu_s: float, *, limited: bool) -> Figure:
    """`counted`: the samples of each process, in order. Raises HostError `speed_too_little`."""
    usable = [samples for samples in counted if len(samples) > 1]
    begin_s = max((samples[0].at_s for samples in usable), default=0.0)
    end_s = min((samples[-1].at_s for samples in usable), default=0.0)
    length_s = end_s - begin_s
    total = sum(samples[-1].total_bytes for samples in counted if samples)
    if len(usable) < len(counted) or length_s <= 0 or total < LEAST_BYTES:
        raise _too_little(direction, total, length_s)
    start_s = begin_s + min(WARM_UP_S, length_s / 4)
    wanted_s = min(STEP_S, max(SHORT_STEP_S, (end_s - start_s) / STEPS))
    steps = max(STEPS_LEAST, round((end_s - start_s) / wanted_s))
    marks = [start_s + (end_s - start_s) * number / steps for number in range(steps + 1)]
    totals = [sum(_at(samples, mark) for samples in usable) for mark in marks]
    step_s = (end_s - start_s) / steps
    rates = [(after - before) * 8 / step_s / 1e6 for before, after in pairwise(totals)]
    mean = sum(rates) / steps
    deviation = (sum((rate - mean) ** 2 for rate in rates) / (steps - 1)) ** 0.5
    if mean < LEAST_MBPS:
        raise _too_little(direction, total, length_s)
    spread = deviation / mean
    margin = _t95(steps - 1) * spread / steps**0.5
    return Figure(
        mbps=round(mean, 3),
        transferred_bytes=total,
        duration_s=round(end_s - start_s, 3),
        spread=round(spread, 4),
        margin=round(margin, 4),
        confidence=_confidence(steps, margin, limited=limited),
        cpu_percent=round(100 * cpu_s / length_s, 1),
    )


def _too_little(direction: Direction, total: int, length_s: float) -> HostError:
    return HostError(
        "speed_too_little",
        f"cannot tell the speed {direction.value}: only {total} bytes came through in {max(length_s, 0.0):.1f} s",
        remedy="see whether the peer or the line is overloaded, and measure again: kaalia speedtest",
    )


def _at(samples: Sequence[Sample], mark_s: float) -> float:
    """Bytes at a moment between two samples, as if they had come evenly."""
    for before, after in pairwise(samples):
        if mark_s <= after.at_s:
            share = (mark_s - before.at_s) / (after.at_s - before.at_s) if after.at_s > before.at_s else 1.0
            return before.total_bytes + max(0.0, share) * (after.total_bytes - before.total_bytes)
    return samples[-1].total_bytes


def _t95(freedom: int) -> float:
    return _T95[max((known for known in _T95 if known <= freedom), default=3)]


def _confidence(steps: int, margin: float, *, limited: bool) -> Confidence:
    """Few steps or widely spread ones make a number that another test may not repeat."""
    if limited or steps < 6 or margin > 0.15:
        return Confidence.LOW
    return Confidence.HIGH if steps >= 10 and margin <= 0.05 else Confidence.MEDIUM


class Leave(StrEnum):
    """Whether a test may run now."""

    FULL = "full"
    LIMITED = "limited"
    WAIT = "wait"


def leave(running: int, tenants_mbps: float, *, has_result: bool, force: bool) -> Leave:
    """`running`: tenants whose workload runs; `tenants_mbps`: their traffic at the newest reading, both ways.

    Beside tenants only a machine of which nothing is known is measured, briefly, while they are quiet.
    """
    if not running or force:
        return Leave.FULL
    return Leave.WAIT if has_result or tenants_mbps > BUSY_MBPS else Leave.LIMITED


def is_due(known: MeasuredSpeed | None, now: datetime, every: timedelta, address: str | None) -> bool:
    """Whether nothing is known of this place in the network, or what is known is old."""
    if known is None or known.address != address:
        return True
    return not timedelta(0) <= now - known.measured_at < every
