"""Windows in which the owner works on the machine: announced, kept free of new contracts, and nothing stopped for them.

        scheduled_at            start_at          end_at
    ─────────┬─────────────────────┬─────────────────┬─────▶
     as agreed  new contracts end here    no new one    as before

A contract that was agreed before the window was scheduled goes on through it: what was agreed holds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaalia.contracts.contract import Contract, ContractKind
from kaalia.errors import ContractError, Problem

CATEGORIES = ("not provided", "power", "internet", "disk", "gpu", "software", "other")
"""What the public client's help names, and what it sends when nothing is given. Renters read them."""
MIN_RENTAL = timedelta(hours=1)
"""A machine is not rented out for less time than this before a window: an image may take as long to come."""
LENGTH_MAX = timedelta(days=30)
AHEAD_MAX = timedelta(days=366)
"""A start beyond it is a slip, such as milliseconds for seconds."""
WINDOWS_MAX = 32
START_TOLERANCE = timedelta(minutes=5)
"""`now` was typed a moment ago, and clocks differ."""
END_TOLERANCE = timedelta(seconds=60)
"""End dates pass through floats and roundings of several programs."""

CANCEL_FIRST = "cancel what is scheduled first: `vastai cancel maint ID`"


@dataclass(frozen=True, slots=True)
class Window:
    """From `start_at` until just before `end_at`. `scheduled_at`: when the owner announced it."""

    start_at: datetime
    end_at: datetime
    scheduled_at: datetime
    category: str = CATEGORIES[0]


def check(window: Window, others: Iterable[Window], now: datetime) -> None:
    """May the owner schedule it? Raises ContractError maintenance_invalid, maintenance_past or maintenance_conflict."""
    length = window.end_at - window.start_at
    if window.category not in CATEGORIES:
        raise ContractError(
            "maintenance_invalid",
            f"cannot schedule maintenance: the category {window.category[:40]!r} is unknown",
            remedy=f"use one of {', '.join(CATEGORIES)}",
        )
    if not timedelta(0) < length <= LENGTH_MAX:
        hours, greatest = length.total_seconds() / 3600, LENGTH_MAX.total_seconds() / 3600
        raise ContractError(
            "maintenance_invalid",
            f"cannot schedule maintenance: a duration of {hours:g} h is not above 0 and at most {greatest:g}",
            remedy="give the hours it takes, such as 1.5",
        )
    if window.start_at > now + AHEAD_MAX:
        raise ContractError(
            "maintenance_invalid",
            f"cannot schedule maintenance: the start {_date(window.start_at)} is over {AHEAD_MAX.days} days ahead",
            remedy="give it in seconds since 1970, as by: date -d 'tomorrow 9:00' +%s",
        )
    if window.start_at < now - START_TOLERANCE or window.end_at <= now:
        raise ContractError(
            "maintenance_past",
            f"cannot schedule maintenance: the start {_date(window.start_at)} is past",
            remedy=f"give a start after {_date(now)}",
        )
    _check_room(window, open_windows(others, now))


def _check_room(window: Window, coming: tuple[Window, ...]) -> None:
    for other in coming:
        if window.start_at < other.end_at and other.start_at < window.end_at:
            raise ContractError(
                "maintenance_conflict",
                f"cannot schedule maintenance: it overlaps the one {words(other)}",
                remedy=CANCEL_FIRST,
            )
    if len(coming) >= WINDOWS_MAX:
        raise ContractError(
            "maintenance_conflict",
            f"cannot schedule maintenance: {len(coming)} windows are scheduled already",
            remedy=CANCEL_FIRST,
        )


def open_windows(windows: Iterable[Window], now: datetime) -> tuple[Window, ...]:
    """Those that are not over, the earliest first."""
    return tuple(sorted((one for one in windows if one.end_at > now), key=lambda one: one.start_at))


def current(windows: Iterable[Window], now: datetime) -> Window | None:
    """The one that lasts now."""
    return next((one for one in open_windows(windows, now) if one.start_at <= now), None)


def cut(end_at: datetime | None, windows: Iterable[Window], since: datetime) -> datetime | None:
    """The end of a contract that would run from `since` until `end_at`, kept out of every window that is not over."""
    starts = [one.start_at for one in open_windows(windows, since)]
    ends = [*starts, *([] if end_at is None else [end_at])]
    return min(ends, default=None)


def extended(
    offered: datetime | None, agreed: datetime | None, windows: Iterable[Window], now: datetime
) -> datetime | None:
    """The end that a contract gets when it is extended: before the windows that it did not reach as agreed.

    A window that is over holds nothing up. While one lasts that a contract ended before, it keeps its end.
    """
    if agreed is None:
        return offered
    end_at = cut(offered, [one for one in windows if one.start_at >= agreed], now)
    return agreed if end_at is not None and end_at <= now else end_at


def obstacle(end_at: datetime | None, windows: Iterable[Window], now: datetime) -> Window | None:
    """The window that leaves a contract from now until `end_at` less than MIN_RENTAL. None: it may be made."""
    first = next(iter(open_windows(windows, now)), None)
    if first is None or first.start_at >= now + MIN_RENTAL:
        return None
    return None if end_at is not None and end_at <= first.start_at else first


def overlap(contract: Contract, windows: Iterable[Window], now: datetime) -> Problem | None:
    """Why a machine refuses a contract that is new to it, even a signed one. Self-tests belong into maintenance."""
    if contract.kind is ContractKind.SELFTEST:
        return None
    for one in open_windows(windows, now):
        is_clear = contract.end_at is not None and contract.end_at <= one.start_at + END_TOLERANCE
        if contract.start_at >= one.scheduled_at and not is_clear:
            until = _date(contract.end_at) if contract.end_at else "no date"
            return Problem(
                "maintenance_overlap",
                f"cannot accept a contract that runs until {until}: the owner works on the machine {words(one)}",
                remedy="rent until the window begins, or after it",
            )
    return None


def words(window: Window) -> str:
    """For people: from when to when, and why."""
    return f"from {_date(window.start_at)} to {_date(window.end_at)} ({window.category})"


def _date(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
