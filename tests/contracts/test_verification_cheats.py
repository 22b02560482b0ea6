"""Hosts who cheat by the rules' gaps, and hosts whom the rules must not wrong."""

from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts import impact, retest, verification
from kaalia.contracts.fitness import Fault
from kaalia.contracts.verification_news import BARRED
from kaalia.model.health import Severity
from kaalia.model.selftest import RunResult, SelfTestOrder, StepName
from kaalia.model.verification import Capacity, Ordered, State, Verification
from tests.support.clock import START
from tests.support.verifying import CAPACITY, DAY, HOUR, after_test, codes, fault, news, note, run, verified

MINUTE = timedelta(minutes=1)
DOCKER = (fault("engine_unavailable"),)


def with_memory(share: float) -> Capacity:
    assert CAPACITY is not None
    return replace(CAPACITY, memory_bytes=int(CAPACITY.memory_bytes * share))


def test_a_little_less_with_each_test_is_much_less_in_the_end() -> None:
    known, shares = verified(), (0.985, 0.97, 0.955)
    states = []
    for day, share in enumerate(shares, 1):
        seen = news(day * DAY, capacity=with_memory(share))
        known = verification.advance(known, seen)
        states.append(known.state)
        known = verification.advance(after_test(known, note(run(day * DAY, day + 1)), seen.capacity), seen)

    assert states[0] is State.VERIFIED
    assert State.DEVERIFIED in states


def test_a_test_of_before_the_loss_was_seen_makes_nothing_of_it_well() -> None:
    """As when report and result come with one post."""
    less = with_memory(0.5)
    down = verification.advance(verified(), news(DAY, capacity=less))
    known = verification.advance(after_test(down, note(run(DAY, 2)), less), news(DAY, capacity=less))

    assert known.state is State.DEVERIFIED
    assert known.capacity == CAPACITY


def test_what_could_not_be_counted_when_it_was_tested_is_counted_when_it_is_seen() -> None:
    """Otherwise whoever hides a GPU from the count during the test may take out what he likes."""
    untold = after_test(verification.begun(START), note(run()), None)
    hidden = verification.advance(untold, news(capacity=None))
    seen = verification.advance(hidden, news(HOUR))
    down = verification.advance(seen, news(2 * HOUR, capacity=with_memory(0.5)))

    assert (hidden.state, codes(hidden)) == (State.UNVERIFIED, ["capacity_unknown"])
    assert (seen.state, seen.capacity) == (State.VERIFIED, CAPACITY)
    assert down.state is State.DEVERIFIED


def test_a_disk_that_nobody_could_tell_is_held_to_what_it_is_seen_as_first() -> None:
    assert CAPACITY is not None
    without = replace(CAPACITY, disk_bytes=None)
    known = verification.advance(after_test(verification.begun(START), note(run()), without), news(capacity=without))
    known = verification.advance(known, news(HOUR))
    small = replace(CAPACITY, disk_bytes=10**9)

    assert verification.advance(known, news(2 * HOUR, capacity=small)).state is State.DEVERIFIED


def walk(known: Verification, minutes: int, pattern: str) -> Verification:
    """A heartbeat a minute; `#` in the pattern: Docker does not answer."""
    for minute in range(minutes):
        wrong = DOCKER if pattern[minute % len(pattern)] == "#" else ()
        known = verification.advance(known, news(HOUR + minute * MINUTE, conditions=wrong))
    return known


def test_a_fault_that_pauses_before_each_grace_ends_counts_all_the_same() -> None:
    known = walk(verified(), 40, "#########.")

    assert known.state is State.DEVERIFIED
    assert known.causes[0].since == START + HOUR


def test_short_outages_cost_nothing_though_the_last_was_not_long_ago() -> None:
    """Docker restarts for two minutes, four times, each some minutes after the other."""
    known = walk(verified(), 48, "##..........")

    assert known.state is State.VERIFIED


def test_what_went_before_it_counted_never_counts_while_it_is_gone() -> None:
    known = walk(verified(), 20, "####................")

    assert (known.state, known.lacks) == (State.VERIFIED, ())
    assert not verification.costs(known, START + HOUR + 20 * MINUTE)


def test_a_daemon_that_falls_silent_about_its_faults_is_not_well_by_that() -> None:
    down = verification.advance(verified(), news(HOUR, conditions=(fault("gpu_driver_hung"),)))
    down = verification.advance(down, news(2 * HOUR, conditions=(fault("gpu_driver_hung"),)))
    silent = verification.advance(down, news(DAY, conditions=None))
    later = verification.advance(silent, news(2 * DAY, conditions=None))

    assert [one.state for one in (down, silent, later)] == [State.DEVERIFIED] * 3
    assert "conditions_untold" in codes(later)


def test_who_tells_no_conditions_is_not_verified_and_loses_nothing() -> None:
    tested = after_test(verification.begun(START), note(run()))

    assert verification.advance(tested, news(conditions=None)).state is State.UNVERIFIED
    assert verification.advance(verified(), news(DAY, conditions=None)).state is State.VERIFIED


def test_the_oldest_causes_are_kept_and_no_more_than_fit() -> None:
    known = verification.advance(verified(), news(HOUR, conditions=(fault("gpu_lost", "GPU-00000000"),)))
    for minute in range(1, 10):
        many = tuple(fault(f"gpu_xid_{minute}{number}", "GPU-00000001") for number in range(100))
        known = verification.advance(known, news(HOUR + minute * MINUTE, conditions=many))

    assert len(known.causes) == verification.CAUSES_KEPT
    assert known.causes[0].code == "gpu_lost"


def test_the_operators_word_and_the_test_are_never_crowded_out() -> None:
    many = tuple(fault(f"gpu_xid_{number}", "GPU-00000001") for number in range(100))
    known = verification.advance(verified(), news(HOUR, conditions=many))
    known = verification.advance(
        verification.barred(known, "mines coins", START + HOUR), news(2 * HOUR, conditions=many)
    )

    assert known.causes[0].code == BARRED


def test_a_clock_that_is_ahead_makes_no_test_newer_than_the_fault() -> None:
    """It began, so it says, an hour from now; it took ten minutes, and the fault was two minutes ago."""
    down = verification.advance(verified(), news(HOUR, conditions=(fault("gpu_lost", "GPU-00000001"),)))
    gone = verification.advance(down, news(2 * HOUR))
    told = retest.note(run(4 * HOUR, 2), ("GPU-00000000", "GPU-00000001"), START + 2 * HOUR + 2 * MINUTE)
    assert told is not None
    known = verification.advance(after_test(gone, told), news(2 * HOUR + 30 * MINUTE))

    assert told.ended_at - told.began_at == 10 * MINUTE
    assert "selftest_after_fault" in codes(known)


def test_an_old_test_that_is_told_again_or_late_heals_nothing() -> None:
    failed = verification.advance(after_test(verified(), note(run(2 * DAY, 3, failed=StepName.MEMORY))), news(2 * DAY))
    late = replace(note(run(DAY, 2)), taken_at=START + 3 * DAY)

    assert after_test(failed, late) == failed


def test_the_answer_to_an_order_counts_however_late_it_is_told() -> None:
    """Otherwise one that failed is told after one of one's own that passed."""
    asked = retest.ordered(verified(), Ordered("task", START + DAY, "at random"))
    own = after_test(asked, note(run(3 * DAY, 3)))
    answer = note(run(2 * DAY, 2, failed=StepName.BURN, order=SelfTestOrder(START + DAY, task_id="task")))
    known = verification.advance(after_test(own, answer), news(3 * DAY))

    assert known.state is State.DEVERIFIED
    assert known.ordered is None


def asked_until(known: Verification, days: int, **changes: object) -> Verification:
    """A heartbeat every two hours of a machine that runs no test."""
    for hours in range(0, 24 * days, 2):
        seen = news(13 * DAY + hours * HOUR, **changes)
        known = retest.excused(verification.advance(known, seen), seen)
        if why := retest.wanted_test(known, seen):
            known = retest.ordered(known, Ordered(f"task{hours}", seen.now, why))
    return known


def test_who_runs_none_of_the_tests_that_are_asked_for_is_verified_no_more() -> None:
    """Though tests of one's own pass all the time."""
    known = asked_until(verified(), 3)
    own = after_test(known, note(run(16 * DAY, 9)))
    lapsed = verification.advance(asked_until(own, 5), news(19 * DAY))
    order = lapsed.ordered
    assert order is not None
    answer = note(run(19 * DAY + HOUR, 10, order=SelfTestOrder(order.at, task_id=order.task_id)))
    again = verification.advance(after_test(lapsed, answer), news(19 * DAY + HOUR))

    assert known.state is State.VERIFIED
    assert (lapsed.state, codes(lapsed)) == (State.UNVERIFIED, ["selftest_unanswered"])
    assert (again.state, again.unanswered) == (State.VERIFIED, 0)


def test_a_machine_that_is_rented_again_and_again_owes_no_answer() -> None:
    known = verified()
    for hours in range(0, 24 * 10, 2):
        seen = news(13 * DAY + hours * HOUR, is_rented=hours % 12 == 2)
        known = retest.excused(verification.advance(known, seen), seen)
        if why := retest.wanted_test(known, seen):
            known = retest.ordered(known, Ordered(f"task{hours}", seen.now, why))

    assert (known.state, known.unanswered) == (State.VERIFIED, 0)


def test_a_test_that_gave_way_is_no_answer() -> None:
    asked = retest.ordered(verified(), Ordered("task", START + DAY, "at random"))
    gave_way = note(run(2 * DAY, 2, result=RunResult.NOT_RUN, steps=(), order=SelfTestOrder(START, task_id="task")))

    assert after_test(asked, gave_way) == asked


def test_renters_who_lie_have_a_machine_tested_once_a_day_at_most() -> None:
    known = after_test(verified(), note(run(5 * DAY, 2)))
    known = verification.advance(known, news(5 * DAY))

    assert retest.wanted_test(known, news(5 * DAY + 23 * HOUR, reporters=9)) == ""
    assert retest.wanted_test(known, news(6 * DAY, reporters=9)) == "9 renters reported it"


def test_a_machine_that_turns_out_to_be_simulated_is_verified_no_more() -> None:
    assert (
        verification.advance(verified(), news(DAY, refused="its driver is a simulated one")).state is State.UNVERIFIED
    )


def test_gpus_that_another_machine_has_verify_nothing() -> None:
    tested = after_test(verification.begun(START), note(run()))
    known = verification.advance(tested, news(elsewhere=2))

    assert (known.state, codes(known)) == (State.UNVERIFIED, ["gpus_elsewhere"])
    assert retest.wanted_test(known, news(elsewhere=2)) == ""
    assert verification.advance(verified(), news(DAY, elsewhere=1)).state is State.UNVERIFIED


@pytest.mark.parametrize("state", ["verified", "deverified", "barred"])
def test_a_machine_that_comes_back_has_what_stood_against_it_and_no_proof(state: str) -> None:
    known = verified()
    if state == "deverified":
        known = verification.advance(known, news(HOUR, conditions=(fault("gpu_lost", "GPU-00000001"),)))
    if state == "barred":
        known = verification.barred(known, "mines coins", START + HOUR)
    back = verification.advance(verification.returned(known, START + DAY), news(DAY))

    assert back.proof is None
    assert "selftest" in codes(back)
    assert (back.state is State.UNVERIFIED) is (state == "verified")
    assert (BARRED in codes(back)) is (state == "barred")
    assert ("gpu_lost" in codes(back)) is (state == "deverified")


@pytest.mark.parametrize(
    ("code", "scope", "level"),
    [("vm_gpu_group_shared", "host", impact.Impact.VM), ("disk_over_size", "C.51", impact.Impact.RENTAL)],
)
def test_what_is_of_virtual_machines_or_of_one_rental_is_kept_and_costs_nothing(
    code: str, scope: str, level: impact.Impact
) -> None:
    seen = Fault(scope, code, Severity.WARN, START, "words")
    noted = verification.advance(verified(), news(HOUR, conditions=(seen,)))
    still = verification.advance(noted, news(2 * HOUR, conditions=(seen,)))
    silent = verification.advance(still, news(3 * HOUR, conditions=None))
    over = verification.advance(still, news(3 * HOUR))

    assert (noted.state, noted.causes, noted.lacks) == (State.VERIFIED, (), ())
    assert [(one.code, one.scope, impact.level(one.code)) for one in noted.asides] == [(code, scope, level)]
    assert still == noted
    assert silent.asides == noted.asides
    assert over.asides == ()
