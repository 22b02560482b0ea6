"""When the marketplace asks for a test, and of whom: at random, of idle machines, less often after failures."""

from dataclasses import replace
from datetime import timedelta

from kaalia.contracts import retest, verification
from kaalia.model.selftest import SelfTestOrder, StepName
from kaalia.model.verification import Ordered
from tests.support.clock import START
from tests.support.verifying import CAPACITY, DAY, HOUR, after_test, news, note, run, verified


def test_random_tests_come_between_five_and_twenty_days_and_only_on_idle_machines() -> None:
    for chance, days in ((0.0, 5), (0.5, 12.5), (1.0, 20)):
        known = retest.tested(verification.begun(START), note(run()), START, CAPACITY, chance)
        assert known.retest_at == START + timedelta(days=days)
    known = verified()
    assert known.retest_at is not None
    due = news(known.retest_at - START)

    assert retest.wanted_test(known, news(DAY)) == ""
    assert retest.wanted_test(known, due) == "at random"
    for changes in ({"is_rented": True}, {"is_offered": False}, {"facts": None}, {"refused": "simulated"}):
        assert retest.wanted_test(known, replace(due, **changes)) == ""


def test_nobody_puts_his_random_test_off_by_tests_of_his_own() -> None:
    known = verified()
    own = retest.tested(known, note(run(4 * DAY, 2)), START + 4 * DAY, CAPACITY, 0.9)
    asked = replace(known, ordered=Ordered("task", START + 4 * DAY, "at random"))
    order = SelfTestOrder(START + 4 * DAY, task_id="task")
    answered = retest.tested(asked, note(run(5 * DAY, 3, order=order)), START + 5 * DAY, CAPACITY, 0.9)

    assert own.retest_at == known.retest_at
    assert (answered.ordered, answered.retest_at) == (None, START + timedelta(days=5 + 5 + 15 * 0.9))


def test_an_order_is_not_repeated_until_a_day_has_passed_without_an_answer() -> None:
    known = verification.advance(verification.begun(START), news())
    known = replace(known, ordered=Ordered("task", START, "it lacks a test that passed"))

    assert retest.wanted_test(known, news(23 * HOUR)) == ""
    assert retest.wanted_test(known, news(25 * HOUR)) != ""


def test_a_machine_that_fails_again_and_again_is_asked_less_and_less_often() -> None:
    known, waits = verified(), []
    for number in range(1, 7):
        at = timedelta(days=10 * number)
        known = verification.advance(after_test(known, note(run(at, number + 1, failed=StepName.BURN))), news(at))
        hours = next(h for h in range(100) if retest.wanted_test(known, news(at + h * HOUR)))
        waits.append(hours)

    assert waits == [1, 6, 24, 72, 72, 72]


def test_two_renters_who_report_a_machine_have_it_tested() -> None:
    known = verified()

    assert retest.wanted_test(known, news(DAY, reporters=1)) == ""
    assert retest.wanted_test(known, news(DAY, reporters=2)) == "2 renters reported it"


def test_a_clock_of_the_machine_that_is_ahead_proves_nothing_for_later() -> None:
    ahead = retest.note(run(400 * DAY), ("GPU-00000000",), START)

    assert ahead is not None
    assert (ahead.began_at, ahead.ended_at) == (START - timedelta(minutes=10), START)
