"""Self-tests as the marketplace takes them: what one proves, and when the next is asked for. Pure.

The result is the machine's signed claim. Random moments and an idle machine keep the asking fair to both sides.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from kaalia.contracts.requirement_facts import least
from kaalia.contracts.verification import CAPACITY, DATA, TEST_FAILED, News
from kaalia.model.selftest import Outcome, RunResult, SelfTestRun, StepName
from kaalia.model.verification import Capacity, RunNote, Verification

WORDS_MAX_CHARS = 300
FIGURES_MAX = 64
"""Names of figures that are kept; steps have some each."""


def tested(known: Verification, note: RunNote, now: datetime, at: Capacity | None, chance: float) -> Verification:
    """With one more test. `at`: what the machine has now. `chance`: 0 to 1, by which the next one is chosen.

    Only a test that the marketplace asked for puts the next random one off: nobody can put it off himself.
    """
    if note.result is RunResult.NOT_RUN or _is_known(known, note):
        return known
    if note.result is RunResult.PASSED and note.missing and known.last is not None:
        return known  # a part that passes says nothing of what failed, and proves no machine
    known = replace(known, last=note)
    if _is_answer(known, note) or known.retest_at is None:
        known = replace(known, ordered=None, retest_at=_next(now, chance))
    if note.result is RunResult.FAILED:
        return replace(known, failures=known.failures + 1)
    if note.missing:
        return known
    return replace(known, proof=note, failures=0, capacity=at or known.capacity)


def wanted_test(known: Verification, news: News) -> str:
    """Why the marketplace should ask for a test now; "": it should not. Nobody is disturbed: an idle machine alone."""
    rule = DATA["retest"]
    if news.is_rented or not news.is_offered or news.refused or news.facts is None or known.barred:
        return ""
    if known.ordered is not None and news.now - known.ordered.at < timedelta(hours=rule["patience_h"]):
        return ""
    if known.last is not None and known.failures and news.now < known.last.taken_at + _pause(known.failures):
        return ""
    lacks = {one.code for one in known.lacks}
    if not lacks <= _TEST_HELPS:
        return ""
    if lacks:
        return "it lacks a test that passed"
    if news.reporters >= rule["reporters"]:
        return f"{news.reporters} renters reported it"
    return "at random" if known.retest_at is not None and known.retest_at <= news.now else ""


def note(run: SelfTestRun, gpu_uuids: tuple[str, ...], now: datetime) -> RunNote | None:
    """What counts of a run. None: it has not ended, or says nothing of the whole machine."""
    if run.began_at is None or run.ended_at is None or run.result is None:
        return None
    rule = DATA["test"]
    outcomes = {step.step: step.outcome for step in run.steps}
    failed = tuple(str(one) for one, outcome in outcomes.items() if outcome is Outcome.FAILED)
    missing = tuple(name for name in rule["needed"] if not _is_proven(name, outcomes.get(StepName(name))))
    words = next((step.words for step in run.steps if step.outcome is Outcome.FAILED), "")
    if run.problem is not None:
        words = run.problem.message
    return RunNote(
        run_id=run.run_id,
        began_at=min(run.began_at, now),
        ended_at=min(run.ended_at, now),
        taken_at=now,
        # The marketplace judges requirements by itself: of the run it takes what the steps saw.
        result=RunResult.FAILED if failed else run.result if run.result is RunResult.NOT_RUN else RunResult.PASSED,
        failed=failed,
        missing=missing,
        words=words[:WORDS_MAX_CHARS],
        gpu_uuids=tuple(sorted(set(gpu_uuids))),
        task_id=run.order.task_id,
        figures=dict(list(least(run.steps).items())[:FIGURES_MAX]),
    )


_TEST_HELPS = frozenset({"selftest", "selftest_after_fault", "selftest_gpus", "selftest_old", TEST_FAILED, CAPACITY})
"""What a machine may lack that a test can give."""


def _is_proven(name: str, outcome: Outcome | None) -> bool:
    return outcome is Outcome.PASSED or (outcome is Outcome.SKIPPED and name in DATA["test"]["may_skip"])


def _is_known(known: Verification, told: RunNote) -> bool:
    last = known.last
    return last is not None and (last.run_id, last.began_at) == (told.run_id, told.began_at)


def _is_answer(known: Verification, told: RunNote) -> bool:
    return known.ordered is not None and told.task_id == known.ordered.task_id


def _next(now: datetime, chance: float) -> datetime:
    rule = DATA["retest"]
    return now + timedelta(days=rule["earliest_days"] + (rule["latest_days"] - rule["earliest_days"]) * chance)


def _pause(failures: int) -> timedelta:
    steps = DATA["retest"]["again_h"]
    return timedelta(hours=steps[min(failures, len(steps)) - 1])
