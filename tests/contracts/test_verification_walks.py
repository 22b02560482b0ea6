"""Machines at random: whatever comes, in whatever order, no verification is given or taken against the rules."""

from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.contracts import impact, requirements, retest, verification
from kaalia.contracts.fitness import Fault
from kaalia.contracts.impact import Impact
from kaalia.contracts.verification_news import News
from kaalia.model.health import HOST, Severity
from kaalia.model.selftest import StepName
from kaalia.model.verification import State, Verification
from tests.contracts.test_requirements import BAD, GOOD
from tests.support.clock import START
from tests.support.verifying import CAPACITY, after_test, note, run

CODES = ("gpu_xid_79", "engine_unavailable", "ports_all_filtered", "disk_over_size", "gpu_hot", "canary_pending")
LAPSES = {"selftest_old", "selftest_gpus"}


@dataclass(frozen=True)
class Event:
    """What happens after so many minutes: a heartbeat, or a test that failed in a step or passed."""

    minutes: int
    codes: frozenset[tuple[str, Severity]]
    missed: str
    is_known: bool
    is_rented: bool
    test: str


EVENTS = st.lists(
    st.builds(
        Event,
        minutes=st.sampled_from([1, 5, 16, 61, 60 * 25, 60 * 24 * 31]),
        codes=st.frozensets(st.tuples(st.sampled_from(CODES), st.sampled_from(list(Severity))), max_size=3),
        missed=st.sampled_from(["", "", "", *BAD]),
        is_known=st.booleans(),
        is_rented=st.booleans(),
        test=st.sampled_from(["", "", "passed", "part", *StepName]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_every_walk_keeps_the_rules(events: list[Event]) -> None:
    known, now = verification.begun(START), START
    for number, event in enumerate(events, 1):
        now += timedelta(minutes=event.minutes)
        known = _tested(known, event, number)
        before, news = known, _news(event, now)
        known = verification.advance(before, news)
        _check(before, known, news)
        assert verification.advance(known, news) == known, "the same news again change nothing"


def _tested(known: Verification, event: Event, number: int) -> Verification:
    if not event.test:
        return known
    told = run(timedelta(minutes=event.minutes) + (known.last.ended_at - START if known.last else timedelta(0)), number)
    if event.test == "part":
        told = replace(told, steps=told.steps[:3])
    elif event.test != "passed":
        told = replace(run(failed=event.test), run_id=number, began_at=told.began_at, ended_at=told.ended_at)
    return after_test(known, note(told))


def _news(event: Event, now: object) -> News:
    facts = replace(GOOD, **BAD[event.missed]) if event.missed else GOOD
    conditions = tuple(Fault(HOST, code, severity, START, code) for code, severity in sorted(event.codes))
    return News(
        now,  # type: ignore[arg-type]
        facts,
        CAPACITY if event.is_known else None,
        conditions=conditions,
        faults=tuple(one for one in conditions if one.severity is not Severity.WARN),
        is_rented=event.is_rented,
    )


def _check(before: Verification, known: Verification, news: News) -> None:
    counting = [one for one in known.causes if one.counts_at <= news.now]
    match before.state, known.state:
        case _, State.VERIFIED:
            if before.state is not State.VERIFIED:
                assert not known.lacks
            assert known.proof is not None
            assert not counting
        case State.VERIFIED, State.DEVERIFIED:
            assert counting
        case State.VERIFIED, State.UNVERIFIED:
            assert LAPSES & {one.code for one in known.lacks}
            assert not counting
        case State.UNVERIFIED, State.DEVERIFIED:
            raise AssertionError("what was not verified cannot be deverified")
        case State.DEVERIFIED, State.UNVERIFIED:
            assert not counting
            assert known.lacks
    assert news.facts is not None
    missed = {one.requirement for one in requirements.unmet(requirements.verdicts(news.facts))}
    assert missed <= {one.code for one in known.lacks}
    for fault in news.conditions or ():
        found = impact.effect(fault.code, fault.severity)
        is_cause = found is not None and found.impact is Impact.MACHINE
        assert (fault.code in {one.code for one in known.causes if one.gone_at is None}) >= is_cause
    if retest.wanted_test(known, news):
        assert not news.is_rented
