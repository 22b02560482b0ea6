"""When a request that a renter scheduled is due: hourly, daily or weekly, from a start until an end. Pure, in UTC.

    start_at                                              end_at
    ───┬────────●────────────●────────────●────────────●────┬───▶
              due at the same minute of each hour, day or week

An hourly job is due at the minute of its start, the others at the full hour. What was missed, because nobody was there
to do it, is made up by one run and not by as many as were missed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kaalia.errors import ContractError

AHEAD_MAX = timedelta(days=3660)
"""An end beyond it is a slip, such as milliseconds for seconds."""
LATE_MAX = timedelta(minutes=10)
"""After the end of a schedule its last run is made up for so long: a marketplace restarts in less."""


class Frequency(StrEnum):
    """As the public client spells it."""

    HOURLY = "HOURLY"
    DAILY = "DAILY"
    WEEKLY = "WEEKLY"


_PERIODS = {
    Frequency.HOURLY: timedelta(hours=1),
    Frequency.DAILY: timedelta(days=1),
    Frequency.WEEKLY: timedelta(days=7),
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """`day`: 0 is Sunday, None: every day. `hour`: 0 to 23, None: every hour. Start and end are within."""

    frequency: Frequency
    day: int | None
    hour: int | None
    start_at: datetime
    end_at: datetime

    @property
    def minute(self) -> int:
        return self.start_at.minute if self.frequency is Frequency.HOURLY else 0


def check(schedule: Schedule, now: datetime) -> None:
    """Raises ContractError `schedule_invalid`, `schedule_past`, or `schedule_empty` when nothing would ever be done."""
    _check_when(schedule)
    start, end = _date(schedule.start_at), _date(schedule.end_at)
    if schedule.end_at <= schedule.start_at:
        raise ContractError(
            "schedule_invalid",
            f"cannot schedule: end_time {end} is not after start_time {start}",
            remedy="give an --end_date after --start_date",
        )
    if schedule.end_at > now + AHEAD_MAX:
        raise ContractError(
            "schedule_invalid",
            f"cannot schedule: end_time {end} is over {AHEAD_MAX.days} days ahead",
            remedy="give seconds since 1970, not milliseconds",
        )
    if schedule.end_at <= now:
        raise ContractError(
            "schedule_past", f"cannot schedule: end_time {end} is past", remedy=f"give one after {_date(now)}"
        )
    if next_at(schedule, now) is None:
        raise ContractError(
            "schedule_empty",
            f"cannot schedule: {words(schedule)} there is no run between start_time {start} and end_time {end}",
            remedy="give a later --end_date",
        )


def _check_when(schedule: Schedule) -> None:
    for name, value, greatest in (("day_of_the_week", schedule.day, 6), ("hour_of_the_day", schedule.hour, 23)):
        if value is not None and not 0 <= value <= greatest:
            raise ContractError(
                "schedule_invalid",
                f"cannot schedule: {name}={value} is outside 0 to {greatest}",
                remedy="days count from 0, Sunday; hours are in UTC",
            )
    match schedule.frequency:
        case Frequency.HOURLY:
            is_fit, wanted = schedule.day is None and schedule.hour is None, "neither: --day '*' --hour '*'"
        case Frequency.DAILY:
            is_fit, wanted = (
                schedule.day is None and schedule.hour is not None,
                "an hour and no day: --day '*' --hour 16",
            )
        case Frequency.WEEKLY:
            is_fit, wanted = schedule.day is not None and schedule.hour is not None, "both: --day 0 --hour 16"
    if not is_fit:
        given = f"day_of_the_week={schedule.day}, hour_of_the_day={schedule.hour}"
        raise ContractError(
            "schedule_invalid",
            f"cannot schedule: frequency {schedule.frequency} does not go with {given}",
            remedy=f"give {wanted}",
        )


def next_at(schedule: Schedule, after: datetime) -> datetime | None:
    """The first run later than `after`; None: there is none before the end."""
    least = max(schedule.start_at, after + timedelta(microseconds=1))
    at = least.replace(minute=schedule.minute, second=0, microsecond=0)
    if schedule.hour is not None:
        at = at.replace(hour=schedule.hour)
    if schedule.day is not None:
        at -= timedelta(days=(at.isoweekday() - schedule.day) % 7)
    while at < least:
        at += _PERIODS[schedule.frequency]
    return at if at <= schedule.end_at else None


def is_worth(schedule: Schedule, due_at: datetime, now: datetime) -> bool:
    """Is a run that was due at `due_at` still done now? Until the schedule's end, and LATE_MAX beyond it."""
    return now <= max(schedule.end_at, due_at) + LATE_MAX


def words(schedule: Schedule) -> str:
    """For people: how often."""
    match schedule.frequency:
        case Frequency.HOURLY:
            return f"hourly at minute {schedule.minute}"
        case Frequency.DAILY:
            return f"daily at {schedule.hour}:00 UTC"
        case Frequency.WEEKLY:
            return f"weekly on day {schedule.day} at {schedule.hour}:00 UTC"


def _date(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
