"""Machines on their way through the states of a verification: news of them, and tests that they told."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from kaalia.contracts import retest, verification, verification_news
from kaalia.contracts.fitness import Fault
from kaalia.contracts.verification_news import News
from kaalia.model.health import HOST, Severity
from kaalia.model.selftest import Outcome, RunResult, SelfTestOrder, SelfTestRun, StepName, StepResult
from kaalia.model.verification import RunNote, State, Verification
from tests.contracts.test_requirements import GOOD
from tests.support.clock import START
from tests.support.machines import machine_report

REPORT = machine_report(gpus=2)
CAPACITY = verification_news.capacity(REPORT)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def news(after: timedelta = timedelta(0), **changes: Any) -> News:
    return replace(News(START + after, GOOD, CAPACITY), **changes)


def run(after: timedelta = timedelta(0), run_id: int = 1, failed: str = "", **changes: Any) -> SelfTestRun:
    """Of all steps, ten minutes long; it ends at `after`."""
    steps = tuple(
        StepResult(step, Outcome.FAILED if step == failed else Outcome.PASSED, f"{step} was looked at")
        for step in StepName
    )
    ended_at = START + after
    made = SelfTestRun(
        run_id=run_id,
        order=SelfTestOrder(ended_at - timedelta(minutes=11)),
        began_at=ended_at - timedelta(minutes=10),
        ended_at=ended_at,
        result=RunResult.FAILED if failed else RunResult.PASSED,
        steps=steps,
    )
    return replace(made, **changes)


def note(told: SelfTestRun, uuids: tuple[str, ...] = ("GPU-00000000", "GPU-00000001")) -> RunNote:
    assert told.ended_at is not None
    found = retest.note(told, uuids, told.ended_at)
    assert found is not None
    return found


def after_test(known: Verification, told: RunNote, capacity: Any = CAPACITY) -> Verification:
    return retest.tested(known, told, told.taken_at, capacity, 0.5)


def verified() -> Verification:
    known = verification.advance(after_test(verification.begun(START), note(run())), news())
    assert known.state is State.VERIFIED
    return known


def fault(code: str, scope: str = HOST, severity: Severity = Severity.CRITICAL) -> Fault:
    return Fault(scope, code, severity, START, f"cannot: {code}")


def codes(known: Verification) -> list[str]:
    return [one.code for one in known.lacks]
