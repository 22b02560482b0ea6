"""The walk through the states: what makes a machine verified, what takes that back, and what gives it again."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kaalia.contracts import impact, retest, verification, verification_news
from kaalia.contracts.impact import Effect, Impact
from kaalia.model.health import Severity
from kaalia.model.selftest import Outcome, RunResult, StepName
from kaalia.model.verification import State
from tests.contracts.test_requirements import GOOD
from tests.support.clock import START
from tests.support.machines import machine_report
from tests.support.verifying import CAPACITY, DAY, HOUR, after_test, codes, fault, news, note, run, verified


def test_a_new_machine_lacks_its_test_and_nothing_else() -> None:
    known = verification.advance(verification.begun(START), news())

    assert known.state is State.UNVERIFIED
    assert codes(known) == ["selftest"]
    assert retest.wanted_test(known, news()) == "it lacks a test that passed"


def test_test_health_and_requirements_together_verify() -> None:
    known = verified()

    assert (known.lacks, known.causes) == ((), ())
    assert [(one.state, one.why) for one in known.history] == [(State.VERIFIED, ())]


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"facts": None}, "no_report"),
        ({"facts": replace(GOOD, cuda=11.7)}, "cuda.version"),
        ({"facts": replace(GOOD, tcp_ports=None)}, "network.direct_ports"),
        ({"facts": replace(GOOD, reliability=0.9)}, "reliability"),
        ({"conditions": (fault("gpu_lost", "GPU-00000001"),)}, "gpu_lost"),
        ({"faults": (fault("canary_pending", severity=Severity.UNKNOWN),)}, "canary_pending"),
        ({"refused": "its driver is a simulated one"}, "refused"),
        ({"capacity": verification_news.capacity(machine_report(gpus=3))}, "selftest_gpus"),
    ],
)
def test_whatever_is_lacking_keeps_a_tested_machine_unverified(changes: dict[str, Any], lacking: str) -> None:
    known = verification.advance(after_test(verification.begun(START), note(run())), news(**changes))

    assert known.state is State.UNVERIFIED
    assert lacking in codes(known)


def test_advice_is_no_requirement() -> None:
    poor = replace(GOOD, udp_ports=0, quota=0, lanes=1)

    assert verification.advance(verified(), news(facts=poor)).state is State.VERIFIED


@pytest.mark.parametrize("step", StepName)
def test_a_failed_step_fails_the_test(step: StepName) -> None:
    known = verification.advance(after_test(verification.begun(START), note(run(failed=step))), news())

    assert known.state is State.UNVERIFIED
    assert "selftest_failed" in codes(known)
    assert str(step) in known.causes[0].words


@pytest.mark.parametrize(
    "step", sorted(set(StepName) - {"matrix", "peer_bandwidth", "collective", "network", "ports", "disk"})
)
def test_a_test_that_left_a_step_out_proves_nothing(step: StepName) -> None:
    whole = run()
    left_out = note(replace(whole, steps=tuple(one for one in whole.steps if one.step is not step)))
    skipped = note(
        replace(
            whole,
            steps=tuple(replace(one, outcome=Outcome.SKIPPED) if one.step is step else one for one in whole.steps),
        )
    )

    for one in (left_out, skipped):
        known = verification.advance(after_test(verification.begun(START), one), news())
        assert (known.state, codes(known)) == (State.UNVERIFIED, ["selftest"])
        assert str(step) in known.lacks[0].words


def test_what_a_machine_has_nothing_to_prove_of_may_be_skipped() -> None:
    whole = run()
    may = {StepName.PEER_BANDWIDTH, StepName.COLLECTIVE, StepName.MATRIX}
    steps = tuple(replace(one, outcome=Outcome.SKIPPED) if one.step in may else one for one in whole.steps)

    known = verification.advance(after_test(verification.begun(START), note(replace(whole, steps=steps))), news())

    assert known.state is State.VERIFIED


def test_a_run_that_came_to_no_verdict_changes_nothing() -> None:
    known = verified()
    broken = note(run(DAY, 2, result=RunResult.NOT_RUN, steps=()))

    assert after_test(known, broken) == known
    assert retest.note(run(ended_at=None), (), START) is None


def test_a_fault_deverifies_and_its_end_alone_gives_nothing_back() -> None:
    wrong = (fault("gpu_xid_79", "GPU-00000001"),)
    down = verification.advance(verified(), news(HOUR, conditions=wrong))
    gone = verification.advance(down, news(2 * HOUR))
    over = verification.advance(gone, news(2 * HOUR + impact.settle()))
    again = verification.advance(after_test(over, note(run(4 * HOUR, 2))), news(4 * HOUR))

    assert [one.state for one in (down, gone, over, again)] == [
        State.DEVERIFIED,
        State.DEVERIFIED,
        State.UNVERIFIED,
        State.VERIFIED,
    ]
    assert codes(gone) == ["gpu_xid_79", "selftest_after_fault"]
    assert codes(over) == ["selftest_after_fault"]
    assert retest.wanted_test(gone, news(2 * HOUR)) == ""
    assert retest.wanted_test(over, news(3 * HOUR)) == "it lacks a test that passed"


def test_a_test_from_before_the_end_of_the_fault_does_not_count() -> None:
    down = verification.advance(verified(), news(HOUR, conditions=(fault("gpu_lost", "GPU-00000001"),)))
    gone = verification.advance(down, news(3 * HOUR))
    early = verification.advance(after_test(gone, note(run(2 * HOUR, 2))), news(4 * HOUR))

    assert early.state is State.UNVERIFIED
    assert codes(early) == ["selftest_after_fault"]


def test_a_fault_that_comes_and_goes_is_not_over() -> None:
    wrong = (fault("gpu_xid_79", "GPU-00000001"),)
    known = verification.advance(verified(), news(HOUR, conditions=wrong))
    for minute in range(0, 60, 10):
        at = HOUR + timedelta(minutes=minute)
        known = verification.advance(known, news(at, conditions=wrong if minute % 20 else ()))

    assert known.state is State.DEVERIFIED
    assert known.causes[0].since == START + HOUR


@pytest.mark.parametrize(
    ("code", "severity", "entry"),
    [(pattern.replace("*", "79"), min(entry.severities), entry) for entry in impact.effects() for pattern in entry.ids],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_condition_of_the_data_does_what_it_says(code: str, severity: Severity, entry: Effect) -> None:
    """Of the machine: not before its time, then for as long as it stands, and a test after it where that is needed."""
    wrong = (fault(code, severity=severity),)
    first = verification.advance(verified(), news(HOUR, conditions=wrong))
    early = verification.advance(first, news(HOUR + entry.grace * 0.9, conditions=wrong))
    late = verification.advance(first, news(HOUR + entry.grace, conditions=wrong))
    gone = verification.advance(late, news(DAY))
    over = verification.advance(gone, news(DAY + impact.settle()))
    costs = entry.impact is Impact.MACHINE

    assert late.state is (State.DEVERIFIED if costs else State.VERIFIED)
    assert early.state is (State.DEVERIFIED if costs and not entry.grace else State.VERIFIED)
    assert gone.state is late.state
    assert over.state is (State.UNVERIFIED if costs and entry.needs_test else State.VERIFIED)


def test_a_short_outage_of_docker_costs_nothing_and_a_long_one_only_while_it_lasts() -> None:
    wrong = (fault("engine_unavailable"),)
    at_once = verification.advance(verified(), news(HOUR, conditions=wrong))
    short = verification.advance(at_once, news(HOUR + timedelta(minutes=5)))
    long = verification.advance(at_once, news(2 * HOUR, conditions=wrong))
    settling = verification.advance(long, news(3 * HOUR))
    over = verification.advance(settling, news(3 * HOUR + impact.settle()))

    assert [one.state for one in (at_once, short)] == [State.VERIFIED, State.VERIFIED]
    assert (short.lacks, [one.gone_at is None for one in short.causes]) == ((), [False])
    assert [one.state for one in (long, settling, over)] == [State.DEVERIFIED, State.DEVERIFIED, State.VERIFIED]


@pytest.mark.parametrize("severity", [Severity.UNKNOWN, Severity.WARN])
def test_what_nobody_can_tell_takes_no_verification(severity: Severity) -> None:
    unsure = (fault("gpu_xid_79", "GPU-00000001", severity),)
    known = verification.advance(verified(), news(HOUR, conditions=unsure, faults=unsure, capacity=None))

    assert known.state is State.VERIFIED
    assert verification.advance(known, news(DAY, facts=replace(GOOD, down_mbps=None))).state is State.VERIFIED


@pytest.mark.parametrize("code", ["disk_over_size", "certificate_expiring", "vm_memory_unsure"])
def test_what_is_of_one_rental_or_of_virtual_machines_costs_no_verification(code: str) -> None:
    wrong = (fault(code, severity=Severity.WARN),)

    assert verification.advance(verified(), news(HOUR, conditions=wrong)).state is State.VERIFIED


def test_a_requirement_that_is_missed_deverifies_a_measured_one_after_a_day() -> None:
    slow = replace(GOOD, down_mbps=10.0)
    ram = verification.advance(verified(), news(HOUR, facts=replace(GOOD, memory_mib=1024)))
    first = verification.advance(verified(), news(HOUR, facts=slow))
    later = verification.advance(first, news(HOUR + DAY, facts=slow))
    mended = verification.advance(first, news(2 * HOUR))

    assert (ram.state, ram.causes[0].code) == (State.DEVERIFIED, "system.ram")
    assert (first.state, later.state, mended.state) == (State.VERIFIED, State.DEVERIFIED, State.VERIFIED)
    assert (mended.lacks, [one.gone_at is None for one in mended.causes]) == ((), [False])


@pytest.mark.parametrize(
    ("less", "said"),
    [
        ({"gpu_uuids": ("GPU-00000000",)}, "1 of 2 GPUs"),
        ({"cores": 32}, "32 of 64 logical cores"),
        ({"memory_bytes": 2**37}, "memory"),
        ({"disk_bytes": 10**11}, "disk"),
    ],
)
def test_a_machine_that_shrinks_is_deverified_until_it_is_whole_or_tested_as_it_is(
    less: dict[str, Any], said: str
) -> None:
    assert CAPACITY is not None
    smaller = replace(CAPACITY, **less)
    down = verification.advance(verified(), news(HOUR, capacity=smaller))
    whole = verification.advance(down, news(2 * HOUR))
    known = after_test(down, note(run(4 * HOUR, 2)), smaller)

    assert (down.state, down.causes[0].code) == (State.DEVERIFIED, "capacity_reduced")
    assert said in down.causes[0].words
    assert (whole.state, codes(whole)) == (State.UNVERIFIED, ["selftest_after_fault"])
    assert retest.wanted_test(down, news(HOUR, capacity=smaller))
    assert verification.advance(known, news(4 * HOUR, capacity=smaller)).state is State.VERIFIED


def test_little_less_is_no_reduction_and_what_docker_does_not_tell_is_none() -> None:
    assert CAPACITY is not None
    assert CAPACITY.disk_bytes is not None
    little = replace(CAPACITY, memory_bytes=int(CAPACITY.memory_bytes * 0.985), disk_bytes=None)

    assert verification.advance(verified(), news(HOUR, capacity=little)).state is State.VERIFIED


def test_a_gpu_that_was_not_tested_lapses_the_verification_and_a_test_gives_it_back() -> None:
    more = verification_news.capacity(machine_report(gpus=3))
    known = verification.advance(verified(), news(HOUR, capacity=more))
    uuids = tuple(gpu.uuid for gpu in machine_report(gpus=3).gpus)
    again = after_test(known, note(run(2 * HOUR, 2), uuids), more)

    assert (known.state, codes(known)) == (State.UNVERIFIED, ["selftest_gpus"])
    assert verification.advance(again, news(2 * HOUR, capacity=more)).state is State.VERIFIED


def test_an_old_test_lapses_on_an_idle_machine_and_never_while_it_is_rented() -> None:
    late = timedelta(days=31)

    assert verification.advance(verified(), news(late)).state is State.UNVERIFIED
    assert verification.advance(verified(), news(late, is_rented=True)).state is State.VERIFIED


def test_a_failed_test_deverifies_and_a_part_that_passes_heals_nothing() -> None:
    failed = verification.advance(after_test(verified(), note(run(DAY, 2, failed=StepName.MEMORY))), news(DAY))
    part = run(DAY + HOUR, 3)
    part = replace(part, steps=tuple(one for one in part.steps if one.step is StepName.CPU))
    healed = verification.advance(after_test(failed, note(part)), news(DAY + HOUR))
    again = verification.advance(after_test(failed, note(run(DAY + 2 * HOUR, 4))), news(DAY + 2 * HOUR))

    assert (failed.state, healed.state, again.state) == (State.DEVERIFIED, State.DEVERIFIED, State.VERIFIED)


def test_the_operator_has_the_last_word() -> None:
    barred = verification.barred(verified(), "mines coins on idle GPUs", START + HOUR)
    still = verification.advance(barred, news(DAY))
    lifted = verification.advance(verification.lifted(still), news(2 * DAY))

    assert (barred.state, still.state, lifted.state) == (State.DEVERIFIED, State.DEVERIFIED, State.VERIFIED)
    assert codes(still) == ["<admin-set>"]
    assert "mines coins" in still.lacks[0].words
    assert retest.wanted_test(still, news(DAY)) == ""


def test_the_same_news_again_change_nothing() -> None:
    wrong = news(HOUR, conditions=(fault("gpu_xid_79", "GPU-00000001"), fault("engine_unavailable")))
    once = verification.advance(verified(), wrong)

    assert verification.advance(once, wrong) == once
    assert verification.advance(once, replace(wrong, now=wrong.now + timedelta(minutes=1))) == once


def test_history_tells_every_change_with_its_reason() -> None:
    known = verified()
    for day in range(1, 30):
        wrong = (fault("gpu_driver_hung"),) if day % 2 else ()
        for later in (timedelta(0), HOUR):
            known = verification.advance(known, news(day * DAY + later, conditions=wrong))

    assert len(known.history) == verification.HISTORY_KEPT
    assert {one.why for one in known.history if one.state is State.DEVERIFIED} == {("gpu_driver_hung",)}
