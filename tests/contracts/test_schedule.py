"""When scheduled requests are due, whatever was missed meanwhile, and schedules that cannot be."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import schedule
from kaalia.contracts.schedule import Frequency, Schedule
from kaalia.errors import ContractError

THURSDAY = datetime(2026, 1, 1, tzinfo=UTC)
NOW = THURSDAY + timedelta(hours=12)
STEPS = {Frequency.HOURLY: 3600, Frequency.DAILY: 86400, Frequency.WEEKLY: 7 * 86400}


def hourly(start: timedelta = timedelta(0), end: timedelta = timedelta(days=7)) -> Schedule:
    return Schedule(Frequency.HOURLY, None, None, THURSDAY + start, THURSDAY + end)


def daily(hour: int, start: timedelta = timedelta(0), end: timedelta = timedelta(days=7)) -> Schedule:
    return Schedule(Frequency.DAILY, None, hour, THURSDAY + start, THURSDAY + end)


def weekly(day: int, hour: int, end: timedelta = timedelta(days=7)) -> Schedule:
    return Schedule(Frequency.WEEKLY, day, hour, THURSDAY, THURSDAY + end)


def at(days: float, hour: float = 0) -> datetime:
    return THURSDAY + timedelta(days=days, hours=hour)


@pytest.mark.parametrize(
    ("wanted", "after", "due"),
    [
        (hourly(), NOW - timedelta(seconds=1), NOW),
        (hourly(), NOW, at(0, 13)),
        (hourly(start=timedelta(minutes=30)), NOW, at(0, 12.5)),
        (hourly(start=timedelta(days=2, minutes=10)), NOW, at(2) + timedelta(minutes=10)),
        (daily(16), NOW, at(0, 16)),
        (daily(4), NOW, at(1, 4)),
        (daily(16, start=timedelta(hours=16, minutes=1)), NOW, at(1, 16)),
        (weekly(0, 3), NOW, at(3, 3)),  # Sunday
        (weekly(6, 3), NOW, at(2, 3)),  # Saturday
        (weekly(4, 13), NOW, at(0, 13)),
        (weekly(4, 11), NOW, None),
        (weekly(4, 0), NOW, at(7)),  # at the very end
        (hourly(end=timedelta(hours=12)), NOW, None),
        (hourly(), at(400), None),
    ],
)
def test_the_next_run(wanted: Schedule, after: datetime, due: datetime | None) -> None:
    assert schedule.next_at(wanted, after) == due


@given(
    frequency=st.sampled_from(Frequency),
    day=st.integers(0, 6),
    hour=st.integers(0, 23),
    start_s=st.integers(-10_000_000, 10_000_000),
    after_s=st.integers(-10_000_000, 10_000_000),
)
def test_runs_are_a_period_apart_and_none_is_left_out(
    frequency: Frequency, day: int, hour: int, start_s: int, after_s: int
) -> None:
    start, after = NOW + timedelta(seconds=start_s), NOW + timedelta(seconds=after_s)
    wanted = Schedule(
        frequency,
        day if frequency is Frequency.WEEKLY else None,
        None if frequency is Frequency.HOURLY else hour,
        start,
        at(10_000),
    )

    first = schedule.next_at(wanted, after)

    assert first is not None
    period = timedelta(seconds=STEPS[frequency])
    assert max(start, after) <= first <= max(start, after) + period
    assert first > after
    assert schedule.next_at(wanted, first) == first + period
    assert (first.minute, first.second) == (wanted.minute, 0)
    assert wanted.hour in (None, first.hour)
    assert wanted.day in (None, first.isoweekday() % 7)


def test_what_is_missed_is_made_up_until_the_end_and_a_little_beyond() -> None:
    wanted = daily(4, end=timedelta(days=3, hours=4))

    assert schedule.is_worth(wanted, at(1, 4), at(2, 23))
    assert schedule.is_worth(wanted, at(3, 4), at(3, 4) + timedelta(minutes=9))
    assert not schedule.is_worth(wanted, at(3, 4), at(3, 5))


@pytest.mark.parametrize(
    ("wanted", "code", "named"),
    [
        (weekly(7, 3), "schedule_invalid", "day_of_the_week=7"),
        (weekly(-1, 3), "schedule_invalid", "day_of_the_week=-1"),
        (weekly(0, 24), "schedule_invalid", "hour_of_the_day=24"),
        (Schedule(Frequency.HOURLY, None, 3, THURSDAY, at(7)), "schedule_invalid", "HOURLY"),
        (Schedule(Frequency.DAILY, 0, 3, THURSDAY, at(7)), "schedule_invalid", "day_of_the_week=0"),
        (Schedule(Frequency.DAILY, None, None, THURSDAY, at(7)), "schedule_invalid", "hour_of_the_day=None"),
        (Schedule(Frequency.WEEKLY, None, 3, THURSDAY, at(7)), "schedule_invalid", "day_of_the_week=None"),
        (hourly(end=timedelta(0)), "schedule_invalid", "end_time 2026-01-01 00:00 UTC"),
        (hourly(end=timedelta(days=4000)), "schedule_invalid", "3660 days"),
        (hourly(end=timedelta(hours=11)), "schedule_past", "2026-01-01 11:00 UTC"),
        (daily(16, end=timedelta(hours=15)), "schedule_empty", "daily at 16:00 UTC"),
        (weekly(3, 16, end=timedelta(days=5)), "schedule_empty", "weekly on day 3 at 16:00 UTC"),
    ],
)
def test_schedules_that_cannot_be_are_refused(wanted: Schedule, code: str, named: str) -> None:
    with pytest.raises(ContractError) as refused:
        schedule.check(wanted, NOW)

    assert refused.value.code == code
    assert refused.value.problem.message.startswith("cannot schedule")
    assert named in refused.value.problem.message
    assert refused.value.problem.remedy


@pytest.mark.parametrize("wanted", [hourly(), daily(0), weekly(4, 0), hourly(end=timedelta(hours=13))])
def test_what_the_client_sends_by_itself_is_taken(wanted: Schedule) -> None:
    """From midnight today until midnight a week later: a weekly job's only run may be the last moment."""
    schedule.check(wanted, NOW)
