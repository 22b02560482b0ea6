"""Windows: what may be scheduled, and what contracts they leave room for."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import maintenance
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.maintenance import AHEAD_MAX, LENGTH_MAX, MIN_RENTAL, WINDOWS_MAX, Window
from kaalia.errors import ContractError
from tests.support.builders import build_contract
from tests.support.clock import START

HOUR = timedelta(hours=1)


def window(start_h: float = 10, hours: float = 2, scheduled_h: float = 0, category: str = "power") -> Window:
    start_at = START + start_h * HOUR
    return Window(start_at, start_at + hours * HOUR, START + scheduled_h * HOUR, category)


def refusal(new: Window, *others: Window, now: datetime = START) -> tuple[str, str, str]:
    with pytest.raises(ContractError) as caught:
        maintenance.check(new, others, now)
    return caught.value.code, caught.value.problem.message, caught.value.problem.remedy


def test_a_coming_window_may_be_scheduled_beside_others() -> None:
    maintenance.check(window(10), [window(12), window(8)], START)
    maintenance.check(window(-0.01, 1), [window(-9, 2)], START)


@pytest.mark.parametrize(
    ("new", "code", "says"),
    [
        (window(-1, 3), "maintenance_past", "the start 2026-01-01 11:00 UTC is past"),
        (window(-0.05, 0.01), "maintenance_past", "is past"),
        (window(10, 0), "maintenance_invalid", "a duration of 0 h"),
        (window(10, -1), "maintenance_invalid", "a duration of -1 h"),
        (window(10, LENGTH_MAX / HOUR + 0.1), "maintenance_invalid", "at most 720"),
        (window(AHEAD_MAX / HOUR + 1), "maintenance_invalid", "over 366 days ahead"),
        (window(category="fun"), "maintenance_invalid", "the category 'fun' is unknown"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(new: Window, code: str, says: str) -> None:
    found, message, remedy = refusal(new)

    assert found == code
    assert message.startswith("cannot schedule maintenance: ")
    assert says in message
    assert remedy


@pytest.mark.parametrize("other", [window(9), window(11), window(9, 9), window(10.5, 0.5), window()])
def test_windows_do_not_overlap(other: Window) -> None:
    code, message, remedy = refusal(window(), other)

    assert code == "maintenance_conflict"
    assert maintenance.words(other) in message
    assert "vastai cancel maint" in remedy


def test_there_is_an_end_to_windows_and_old_ones_do_not_count() -> None:
    many = [window(20 + 3 * number) for number in range(WINDOWS_MAX)]
    old = [window(-100 - 3 * number) for number in range(WINDOWS_MAX)]

    assert refusal(window(), *many)[0] == "maintenance_conflict"
    maintenance.check(window(), [*many[:-1], *old], START)


def test_a_contract_is_cut_where_the_first_window_begins() -> None:
    first, second, over = window(10), window(20), window(-5, 2)

    assert maintenance.cut(None, [second, over, first], START) == first.start_at
    assert maintenance.cut(START + 9 * HOUR, [second, first], START) == START + 9 * HOUR
    assert maintenance.cut(None, [over], START) is None
    assert maintenance.cut(START + HOUR, [], START) == START + HOUR


def test_a_machine_is_not_rented_out_for_too_short_a_time() -> None:
    soon = window(MIN_RENTAL / HOUR - 0.01)

    assert maintenance.obstacle(None, [soon], START) == soon
    assert maintenance.obstacle(START + 9 * HOUR, [soon], START) == soon
    assert maintenance.obstacle(START + HOUR / 2, [soon], START) is None, "it ends before"
    assert maintenance.obstacle(None, [window(MIN_RENTAL / HOUR)], START) is None
    assert maintenance.obstacle(None, [window(-1, 2)], START) == window(-1, 2)
    assert maintenance.obstacle(None, [window(-2, 2)], START) is None, "it is over"


@given(
    starts=st.lists(st.integers(-30, 30), max_size=4, unique=True),
    end_h=st.none() | st.floats(0.1, 60),
)
def test_what_the_marketplace_admits_the_machine_takes(starts: list[int], end_h: float | None) -> None:
    windows = [window(10 * start, 9, scheduled_h=-1) for start in starts]
    end_at = None if end_h is None else START + end_h * HOUR
    if maintenance.obstacle(end_at, windows, START) is not None:
        return
    made = build_contract(end_at=maintenance.cut(end_at, windows, START))

    assert maintenance.overlap(made, windows, START) is None
    assert made.end_at is None or made.end_at > START


def test_a_contract_across_a_window_is_refused_unless_it_was_agreed_before() -> None:
    later = build_contract(end_at=None, at=START + HOUR)
    earlier = build_contract(end_at=None, at=START)
    planned = window(10, scheduled_h=0.5)

    problem = maintenance.overlap(later, [planned], START + HOUR)
    assert problem is not None
    assert problem.code == "maintenance_overlap"
    assert "runs until no date" in problem.message
    assert "from 2026-01-01 22:00 UTC to 2026-01-02 00:00 UTC (power)" in problem.message
    assert maintenance.overlap(earlier, [planned], START + HOUR) is None
    assert maintenance.overlap(later, [planned], planned.end_at) is None
    assert maintenance.overlap(build_contract(end_at=planned.start_at, at=START + HOUR), [planned], START) is None


def test_a_self_test_belongs_into_maintenance() -> None:
    test = build_contract(end_at=None, kind=ContractKind.SELFTEST)

    assert maintenance.overlap(test, [window(-1)], START) is None
