"""The published formula: what an outage costs, when it is forgotten, and who can change that."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import reliability as rules
from kaalia.contracts.maintenance import Window
from kaalia.model.availability import Cause, Outage, Record, Silence, Span
from tests.support.clock import START

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
MONTH_OLD = Record(START - 40 * DAY, 180.0, is_rented=True)


def silent(begin_at: datetime, length: timedelta, **more: object) -> Silence:
    return Silence(begin_at, begin_at + length, **{"is_rented": True, **more})  # type: ignore[arg-type]


def test_a_new_machine_begins_with_what_the_self_test_asks_for() -> None:
    assert rules.figure(rules.begun(START), START) == pytest.approx(0.95)


def test_a_month_without_an_outage_is_perfect() -> None:
    assert rules.figure(rules.begun(START), START + 29 * DAY) > 0.998
    assert rules.figure(rules.begun(START), START + 30 * DAY) == 1.0


def test_an_outage_of_a_rented_machine_costs_its_part_of_the_month() -> None:
    record = rules.with_silence(MONTH_OLD, silent(START - HOUR, 30 * MINUTE), START)

    assert rules.figure(record, START) == pytest.approx(1 - 0.5 / 720)
    assert rules.cost(record, record.silences[0], START) == pytest.approx(0.5 / 720)


@pytest.mark.parametrize(
    ("more", "weight"),
    [
        ({"is_rented": False}, 0.5),
        ({"planned_s": 1800.0}, 0.2),
        ({"planned_s": 1800.0, "is_rented": False}, 0.1),
        ({"planned_s": 900.0}, 0.6),
        ({"excused_s": 1800.0}, 0.0),
        ({"excused_s": 900.0}, 0.5),
    ],
)
def test_weights(more: dict[str, object], weight: float) -> None:
    over = silent(START - HOUR, 30 * MINUTE, **more)

    assert rules.cost(MONTH_OLD, over, START) == pytest.approx(weight * 0.5 / 720)


def test_an_outage_is_forgotten_bit_by_bit_and_then_gone() -> None:
    over = silent(START, 10 * HOUR)
    record = rules.with_silence(MONTH_OLD, over, START + 10 * HOUR)

    assert rules.figure(record, START + 30 * DAY + 5 * HOUR) == pytest.approx(1 - 5 / 720)
    assert rules.figure(record, rules.recovers_at(over)) == 1.0
    assert rules.recovers_at(over) == START + 30 * DAY + 10 * HOUR


def test_what_is_short_is_no_silence() -> None:
    assert rules.silence(MONTH_OLD, START, START + timedelta(seconds=180)) is None
    assert rules.silence(MONTH_OLD, START, START + timedelta(seconds=181)) is not None
    assert rules.silence(MONTH_OLD, START, START - HOUR) is None


def test_a_window_counts_when_it_was_announced_a_day_before() -> None:
    end_at = START + 2 * HOUR
    windows = {
        "a day before": Window(START, end_at, START - DAY),
        "too late": Window(START, end_at, START - DAY + MINUTE),
        "after the machine had gone": Window(START + 5 * DAY, START + 6 * DAY, START + MINUTE),
    }
    planned = {
        name: over.planned_s
        for name, window in windows.items()
        if (over := rules.silence(MONTH_OLD, START - HOUR, START + 7 * DAY, [window]))
    }

    assert planned == {"a day before": 7200.0, "too late": 0.0, "after the machine had gone": 0.0}


def test_the_marketplace_takes_its_own_outages_upon_itself() -> None:
    away = [Span(START + HOUR, START + 3 * HOUR)]
    together = rules.silence(MONTH_OLD, START + HOUR - MINUTE, START + 3 * HOUR + MINUTE, (), away)
    longer = rules.silence(MONTH_OLD, START, START + 3 * HOUR, (), away)

    assert together is None, "it came back with the marketplace"
    assert longer is not None
    assert rules.cost(MONTH_OLD, longer, START + 3 * HOUR) == pytest.approx(1 / 720)


def test_a_hosts_word_names_the_cause_and_changes_no_cost() -> None:
    over = silent(START, HOUR)
    record = rules.with_silence(MONTH_OLD, over, START + HOUR)
    words = [
        Outage(START + MINUTE, START + 50 * MINUTE, Cause.PLATFORM, False),
        Outage(START + 50 * MINUTE, START + HOUR, Cause.POWER, False),
        Outage(START, START + HOUR, Cause.DOCKER, False),
    ]
    told = rules.explained(record, words)

    assert [one.cause for one in told.silences] == [Cause.PLATFORM]
    assert rules.figure(told, START + HOUR) == rules.figure(record, START + HOUR)
    assert rules.explained(record, [Outage(START - HOUR, START - MINUTE, Cause.NET, True)]) == record
    later = rules.explained(told, [Outage(START + 55 * MINUTE, None, Cause.DAEMON, True)])
    assert later == told, "a word about the smaller part does not take the place of one about the greater"


def test_what_if_is_what_it_then_costs() -> None:
    length, now = 30 * MINUTE, START
    said = rules.what_if(MONTH_OLD, now, length, is_rented=True, is_planned=False)
    over = rules.silence(MONTH_OLD, now, now + length)
    assert over is not None
    record = rules.with_silence(MONTH_OLD, over, now + length)

    assert said == pytest.approx(1.0 - rules.figure(record, now + length))
    assert said == pytest.approx(0.000694, abs=1e-6)
    assert rules.what_if(MONTH_OLD, now, length, is_rented=True, is_planned=True) == pytest.approx(said / 5)
    assert rules.what_if(MONTH_OLD, now, length, is_rented=False, is_planned=False) == pytest.approx(said / 2)
    assert rules.what_if(MONTH_OLD, now, 3 * MINUTE, is_rented=True, is_planned=False) == 0.0


def test_both_ledgers_are_shown_as_one() -> None:
    seen, unseen, unexplained = silent(START, HOUR), START + 5 * HOUR, silent(START + 9 * HOUR, HOUR)
    record = replace(MONTH_OLD, silences=(seen, unexplained))
    power = Outage(START + MINUTE, START + HOUR, Cause.POWER, True)
    daemon = Outage(START, START + MINUTE, Cause.DAEMON, True)
    docker = Outage(unseen, None, Cause.DOCKER, True)

    lines = rules.lines([daemon, power, docker], record, START + DAY)

    assert [(line.outage, line.silence) for line in lines] == [
        (daemon, None),
        (power, seen),
        (docker, None),
        (None, unexplained),
    ]


SILENCES = st.lists(
    st.tuples(
        st.integers(0, 45 * 24 * 60),
        st.integers(1, 3 * 24 * 60),
        st.booleans(),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    max_size=30,
)


def history(steps: list[tuple[int, int, bool, float, float]]) -> tuple[Record, datetime]:
    """Silences one after the other, each after a time of being heard of."""
    now, record = START, rules.begun(START)
    for heard_min, length_min, is_rented, planned, excused in steps:
        begin_at = now + heard_min * MINUTE
        now = begin_at + length_min * MINUTE
        excused_s = excused * length_min * 60
        planned_s = planned * (length_min * 60 - excused_s)
        record = rules.with_silence(record, Silence(begin_at, now, is_rented, planned_s, excused_s), now)
    return record, now


@given(SILENCES, st.integers(0, 40 * 24 * 60))
def test_it_is_a_fraction_and_never_falls_while_the_machine_is_heard_of(
    steps: list[tuple[int, int, bool, float, float]], later_min: int
) -> None:
    record, now = history(steps)
    then, after = rules.figure(record, now), rules.figure(record, now + later_min * MINUTE)

    assert 0 <= then <= 1
    assert 0 <= after <= 1
    assert after >= then - 1e-9
    assert rules.figure(record, now + 60 * DAY) == 1.0


@given(SILENCES, st.integers(4, 5000), st.booleans())
def test_an_outage_never_betters_the_figure(
    steps: list[tuple[int, int, bool, float, float]], length_min: int, is_rented: bool
) -> None:
    record, now = history(steps)
    end_at = now + length_min * MINUTE
    over = rules.silence(replace(record, is_rented=is_rented), now, end_at)
    assert over is not None
    told = rules.with_silence(record, over, end_at)

    assert rules.figure(told, end_at) <= rules.figure(record, end_at)
    assert rules.figure(record, end_at, over) == pytest.approx(rules.figure(told, end_at))


def test_a_machine_that_flaps_cannot_push_its_long_outages_out() -> None:
    record = rules.with_silence(MONTH_OLD, silent(START, 2 * DAY), START + 2 * DAY)
    now = START + 2 * DAY
    for _ in range(rules.SILENCES_MAX + 100):
        now += 10 * MINUTE
        over = silent(now - 4 * MINUTE, 4 * MINUTE)
        record = rules.with_silence(record, over, now)

    assert len(record.silences) == rules.SILENCES_MAX
    assert record.silences[0] == silent(START, 2 * DAY)
