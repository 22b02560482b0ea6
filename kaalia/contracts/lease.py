"""A lease's right in time: what hour it is for contracts, on a machine whose wall clock may lie.

    certain ──(another boot, the wall clock does not fit)──▶ in doubt ──(confirmed, or plausible for SLACK)──▶ certain

Within a boot time is the anchor plus what CLOCK_BOOTTIME has counted since, suspended time included: whatever the
wall clock jumps to ends nothing and prolongs nothing. The wall clock is believed again when the kernel says that it
is synchronised (NTP), or when the marketplace's time agrees with it.

Across a boot only the wall clock can tell how long the machine was off. It is believed at once when it fits; when it
is far ahead (as by a hardware clock in local time), only after it was confirmed or stood unchallenged for SLACK; when
it is behind what was recorded before, only after it was confirmed. Until then a lease that surely runs goes on, one
that surely ended is stopped, one in between is neither stopped nor started, and nothing new is admitted.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from kaalia.contracts.contract import Contract, ContractKind
from kaalia.errors import Problem

TOLERANCE = timedelta(minutes=2)
"""Clocks that differ by less agree."""
SLACK = timedelta(minutes=10)
"""How long the machine waits for somebody to confirm the time before it goes by what it has."""
DELETABLE_AFTER = timedelta(hours=48)
"""Data of an expired contract stay this long, then the host may have them removed; the machine never does so itself."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All clocks of a machine at one moment. `boottime_s` counts suspended time."""

    wall_at: datetime
    boottime_s: float
    boot_id: str
    is_synchronised: bool = False


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is known of time in one boot: it was `at` when the boot was `boottime_s` old, and `seen_s` was reached.

    `doubted_since_s`: since when (boot time) a plausible wall clock waits to be confirmed; None: the time is certain.
    """

    at: datetime
    boottime_s: float
    boot_id: str
    seen_s: float
    doubted_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseTime:
    """It is surely not before `earliest_at`, and `latest_at` at the best guess. Equal when the time is certain."""

    earliest_at: datetime
    latest_at: datetime
    is_certain: bool


class Standing(StrEnum):
    VALID = "valid"
    IN_DOUBT = "in_doubt"
    """It may be over, and nobody has confirmed the time yet."""
    OVER = "over"


def certain(now: datetime) -> LeaseTime:
    return LeaseTime(now, now, True)


def advance(anchor: Anchor | None, reading: Reading) -> Anchor:
    """The anchor by this reading: of this boot, and as certain as the machine alone can make it."""
    if anchor is None:
        return _fixed(reading.wall_at, reading)
    if anchor.boot_id != reading.boot_id:
        anchor = Anchor(_last(anchor), 0.0, reading.boot_id, reading.boottime_s, reading.boottime_s)
    if reading.is_synchronised:
        return _fixed(reading.wall_at, reading)
    anchor = replace(anchor, seen_s=max(anchor.seen_s, reading.boottime_s))
    return anchor if anchor.doubted_since_s is None else _weighed(anchor, reading)


def heard(anchor: Anchor | None, reading: Reading, server_at: datetime) -> Anchor:
    """The marketplace told its time: a hint that confirms a clock of this machine, or ends a doubt. Never more.

    A time that agrees with neither clock moves nothing that is certain, so that nobody ends leases by telling hours.
    """
    advanced = advance(anchor, reading)
    if abs(server_at - reading.wall_at) <= TOLERANCE:
        return _fixed(reading.wall_at, reading)
    if advanced.doubted_since_s is not None and server_at >= _floor(advanced, reading) - TOLERANCE:
        return _fixed(server_at, reading)
    return advanced


def time_of(anchor: Anchor, reading: Reading) -> LeaseTime:
    """The time by an anchor of this boot (see `advance`)."""
    floor = _floor(anchor, reading)
    if anchor.doubted_since_s is None:
        return certain(floor)
    if reading.wall_at >= floor:
        return LeaseTime(floor, reading.wall_at, False)
    return LeaseTime(max(anchor.at, floor - SLACK), floor, False)


def standing(end_at: datetime | None, time: LeaseTime) -> Standing:
    """May a lease with this end (None: no end) run?"""
    if end_at is None or time.latest_at < end_at:
        return Standing.VALID
    return Standing.OVER if time.earliest_at >= end_at else Standing.IN_DOUBT


def is_deletable(contract: Contract, now: datetime) -> bool:
    """It has been over for so long that the owner of the machine may have its data removed.

    Never a default job: that only waits for the end of maintenance, and goes when its owner removes it.
    """
    is_waiting = contract.kind is ContractKind.DEFAULT_JOB
    return not is_waiting and contract.end_at is not None and now >= contract.end_at + DELETABLE_AFTER


def problem(anchor: Anchor, reading: Reading) -> Problem | None:
    """What a person must know about the clocks of this machine. None: they agree."""
    time = time_of(anchor, reading)
    difference = reading.wall_at - time.latest_at
    clocks = f"wall clock {reading.wall_at:%Y-%m-%d %H:%M:%S}, time of contracts {time.latest_at:%Y-%m-%d %H:%M:%S} UTC"
    if not time.is_certain:
        return Problem(
            "time_uncertain",
            "cannot be sure of the time since the machine started: nothing new is admitted until it is confirmed",
            remedy="set the clock (NTP); the marketplace confirms it too as soon as it is reached",
            evidence=clocks,
        )
    if abs(difference) > TOLERANCE:
        way = "ahead of" if difference > timedelta() else "behind"
        return Problem(
            "clock_jumped",
            f"cannot trust the wall clock: it is {abs(difference).total_seconds():.0f} s {way} the time of contracts",
            remedy="set the clock (NTP); leases go by the time since the boot meanwhile",
            evidence=clocks,
        )
    return None


def _fixed(at: datetime, reading: Reading) -> Anchor:
    return Anchor(at, reading.boottime_s, reading.boot_id, reading.boottime_s)


def _last(anchor: Anchor) -> datetime:
    """The last moment of an anchor's boot that was recorded; every later boot began after it."""
    return anchor.at + timedelta(seconds=anchor.seen_s - anchor.boottime_s)


def _floor(anchor: Anchor, reading: Reading) -> datetime:
    return anchor.at + timedelta(seconds=reading.boottime_s - anchor.boottime_s)


def _weighed(anchor: Anchor, reading: Reading) -> Anchor:
    """A doubt, by the wall clock as it stands now."""
    floor, since_s = _floor(anchor, reading), anchor.doubted_since_s or 0.0
    if abs(reading.wall_at - floor) <= TOLERANCE:
        return _fixed(max(reading.wall_at, floor), reading)
    if reading.wall_at < floor:
        return replace(anchor, doubted_since_s=reading.boottime_s)  # it must become plausible first, then stay so
    if reading.boottime_s - since_s >= SLACK.total_seconds():
        return _fixed(reading.wall_at, reading)
    return anchor
