"""Self-tests as the marketplace takes them: what one proves, and when the next is asked for. Pure.

The result is the machine's signed claim. Random moments and an idle machine keep the asking fair to both sides.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from kaalia.contracts.requirement_facts import least
from kaalia.contracts.verification_news import CAPACITY, DATA, TEST_FAILED, News, is_less
from kaalia.model.selftest import Outcome, RunResult, SelfTestRun, StepName
from kaalia.model.verification import Capacity, Ordered, RunNote, Verification

WORDS_MAX_CHARS = 300
FIGURES_MAX = 64
"""Names of figures that are kept; steps have some each."""


def tested(known: Verification, note: RunNote, now: datetime, at: Capacity | None, chance: float) -> Verification:
    """With one more test. `at`: what the machine has now. `chance`: 0 to 1, by which the next one is chosen.

    Only a test that the marketplace asked for puts the next random one off: nobody can put it off himself. One that is
    told late, after a newer one, changes nothing.
    """
    if note.result is RunResult.NOT_RUN or _is_known(known, note) or _is_old(known, note):
        return known
    if note.result is RunResult.PASSED and note.missing and known.last is not None:
        return known  # a part that passes says nothing of what failed, and proves no machine
    known = replace(known, last=note)
    if _is_answer(known, note) or known.retest_at is None:
        known = replace(known, ordered=None, unanswered=0, retest_at=_next(now, chance))
    if note.result is RunResult.FAILED:
        return replace(known, failures=known.failures + 1)
    if note.missing:
        return known
    return replace(known, proof=note, failures=0, capacity=_held_to(known, note, at))


def ordered(known: Verification, order: Ordered) -> Verification:
    """With one more test asked for. An order of before was not answered then, and nothing excused that."""
    missed = known.ordered is not None and not known.ordered.is_excused
    return replace(known, ordered=order, unanswered=known.unanswered + missed)


def excused(known: Verification, news: News) -> Verification:
    """A renter who is there goes before the test that was asked for."""
    if known.ordered is None or known.ordered.is_excused or not news.is_rented:
        return known
    return replace(known, ordered=replace(known.ordered, is_excused=True))


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
    is_rested = known.last is None or news.now >= known.last.taken_at + timedelta(hours=rule["reports_rest_h"])
    if news.reporters >= rule["reporters"] and is_rested:
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
    # A clock that is ahead makes no test newer than it can be, and none shorter.
    ahead = max(run.ended_at - now, timedelta(0))
    return RunNote(
        run_id=run.run_id,
        began_at=run.began_at - ahead,
        ended_at=run.ended_at - ahead,
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


_TEST_HELPS = frozenset(
    {
        *("selftest", "selftest_after_fault", "selftest_gpus", "selftest_old", "selftest_unanswered"),
        *(TEST_FAILED, CAPACITY),
    }
)
"""What a machine may lack that a test can give."""


def _is_proven(name: str, outcome: Outcome | None) -> bool:
    return outcome is Outcome.PASSED or (outcome is Outcome.SKIPPED and name in DATA["test"]["may_skip"])


def _held_to(known: Verification, told: RunNote, at: Capacity | None) -> Capacity | None:
    """What it has now, unless the test is of before that was seen. A little less is none, or many would make much."""
    before = known.capacity
    is_of_before = known.proof_after is not None and told.began_at <= known.proof_after
    if at is None or (before is not None and is_of_before):
        return before
    if before is None:
        return at
    memory_bytes = _firm(before.memory_bytes, at.memory_bytes) or at.memory_bytes
    return replace(at, memory_bytes=memory_bytes, disk_bytes=_firm(before.disk_bytes, at.disk_bytes))


def _firm(before: int | None, now: int | None) -> int | None:
    if before is None or now is None:
        return before if now is None else now
    return now if now > before or is_less(before, now) else before


def _is_old(known: Verification, told: RunNote) -> bool:
    """The answer to an order never is: otherwise one that failed would be told after one that passed."""
    return known.last is not None and told.began_at < known.last.began_at and not _is_answer(known, told)


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
