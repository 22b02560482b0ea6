"""When a machine is verified, loses that, and is tested again. Pure: the marketplace applies it to whatever it hears.

                 nothing is lacking: requirements, test, health
    unverified ────────────────────────────────────────────────▶ verified
        ▲  ▲                                                       │  │
        │  └── the test is too old, or a GPU was not tested ───────┘  │ a fault that counts: a condition,
        │                                                             │ a failed test, less capacity, a
        │                                                             │ requirement missed, the operator
        └────── the faults are over ────────── deverified ◀───────────┘

What is not known takes no verification away, and gives none. Data: `verification.toml`, `impact.toml`,
`requirements.toml`.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import resources
from typing import Any

from kaalia.contracts import fitness, impact, requirements
from kaalia.contracts.fitness import Fault
from kaalia.contracts.impact import Impact
from kaalia.contracts.requirement_facts import Facts
from kaalia.contracts.slicing import all_known
from kaalia.model.health import HOST
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import Outcome, RequirementVerdict, RunResult
from kaalia.model.verification import Capacity, Cause, Change, Lack, State, Verification, VerificationView
from kaalia.units import format_bytes

BARRED = "<admin-set>"
"""The code of what the operator did by hand, as the public marketplace spells it."""
CAPACITY = "capacity_reduced"
TEST_FAILED = "selftest_failed"
HISTORY_KEPT = 20
# When the module is imported, not in somebody's event loop.
DATA: dict[str, Any] = tomllib.loads(
    (resources.files("kaalia.contracts") / "verification.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class News:
    """All that the marketplace knows of a machine at one moment.

    `facts` None: it has not reported. `capacity` None: it cannot be counted now. `conditions`: open ones, as told;
    `faults`: what keeps parts of it from being rented, unknown ones too. `refused`: why no test can help, such as a
    simulated driver. `is_offered`: listed, and its owner does not work on it. `reporters`: renters who reported it
    since its last test.
    """

    now: datetime
    facts: Facts | None
    capacity: Capacity | None
    conditions: tuple[Fault, ...] = ()
    faults: tuple[Fault, ...] = ()
    is_rented: bool = False
    is_offered: bool = True
    refused: str = ""
    reporters: int = 0


def begun(now: datetime) -> Verification:
    return Verification(State.UNVERIFIED, now)


def capacity(report: MachineReport) -> Capacity | None:
    """None: the driver does not show all, so that less is known than is there."""
    if not all_known(report):
        return None
    return Capacity(
        gpu_uuids=tuple(sorted(gpu.uuid for gpu in report.gpus)),
        memory_bytes=report.memory.total_bytes,
        cores=report.cpu.logical_cores,
        disk_bytes=report.disk.total_bytes if report.disk and report.engine else None,
    )


def advance(known: Verification, news: News) -> Verification:
    """What follows from the news. The same news again changes nothing but what time alone brings about."""
    causes = _causes(known, news)
    counting = [one for one in causes if one.counts_at <= news.now]
    proof_after = _proof_after(known, counting)
    lacks = tuple(_lacks(replace(known, causes=causes, proof_after=proof_after), news))
    state, why = _state(known, counting, lacks)
    if state is known.state:
        return replace(known, causes=causes, lacks=lacks, proof_after=proof_after)
    history = (*known.history, Change(news.now, state, why))[-HISTORY_KEPT:]
    return replace(
        known, state=state, since=news.now, causes=causes, lacks=lacks, proof_after=proof_after, history=history
    )


def barred(known: Verification, words: str, now: datetime) -> Verification:
    """The operator's word counts at once, whatever the machine says."""
    cause = Cause(BARRED, HOST, words, now, now)
    others = tuple(one for one in known.causes if one.code != BARRED)
    history = known.history
    if known.state is not State.DEVERIFIED:
        history = (*history, Change(now, State.DEVERIFIED, (BARRED,)))[-HISTORY_KEPT:]
    since = known.since if known.state is State.DEVERIFIED else now
    return replace(known, state=State.DEVERIFIED, since=since, barred=words, causes=(*others, cause), history=history)


def lifted(known: Verification) -> Verification:
    """What follows, the next news show."""
    return replace(known, barred="")


def view(known: Verification) -> VerificationView:
    return VerificationView(
        known.state, known.since, known.causes, known.lacks, known.last, known.ordered, known.history
    )


def codes(known: Verification) -> tuple[str, ...]:
    """Of what costs a machine its verification now, without its own words."""
    return tuple(sorted({one.code for one in known.causes if one.gone_at is None}))


def _state(known: Verification, counting: list[Cause], lacks: tuple[Lack, ...]) -> tuple[State, tuple[str, ...]]:
    if not lacks:
        return State.VERIFIED, ()
    why = tuple(dict.fromkeys(one.code for one in counting)) or tuple(one.code for one in lacks)
    match known.state:
        case State.VERIFIED if counting:
            return State.DEVERIFIED, why
        # What has not counted yet, and what nobody can tell, takes nothing away.
        case State.VERIFIED:
            lapsed = tuple(one.code for one in lacks if one.code in _LAPSES)
            return (State.UNVERIFIED, lapsed) if lapsed else (State.VERIFIED, ())
        case State.DEVERIFIED if not counting:
            return State.UNVERIFIED, why
        case _:
            return known.state, why


_LAPSES = frozenset({"selftest_old", "selftest_gpus"})


def _causes(known: Verification, news: News) -> tuple[Cause, ...]:
    """Those that are seen, with when that began, and those that are gone but not for long enough."""
    before = {(one.code, one.scope): one for one in known.causes}
    seen = {(one.code, one.scope): one for one in _seen(known, news)}
    kept = []
    for key, one in seen.items():
        earlier = before.get(key)
        if earlier is None:
            kept.append(one)
        else:
            kept.append(replace(one, since=earlier.since, counts_at=earlier.counts_at, gone_at=None))
    for key, one in before.items():
        if key in seen or one.counts_at > news.now:
            continue  # what is gone before it counted is over at once
        gone_at = one.gone_at or news.now
        settles = timedelta(0) if key[0] in _SETTLED_BY_ITSELF else impact.settle()
        if news.now - gone_at < settles:
            kept.append(replace(one, gone_at=gone_at))
    return tuple(sorted(kept, key=lambda one: (one.since, one.code, one.scope)))


_SETTLED_BY_ITSELF = frozenset({BARRED, CAPACITY, TEST_FAILED})
"""What a person or a test took back comes and goes by no chance."""


def _seen(known: Verification, news: News) -> Iterator[Cause]:
    now = news.now
    for fault in news.conditions:
        found = impact.effect(fault.code, fault.severity)
        if found is not None and found.impact is Impact.MACHINE:
            yield Cause(fault.code, fault.scope, fault.message, now, now + found.grace, found.needs_test)
    if known.barred:
        yield Cause(BARRED, HOST, known.barred, now, now)
    if known.last is not None and known.last.result is RunResult.FAILED:
        words = f"the self-test failed: {', '.join(known.last.failed)}: {known.last.words}"
        # By the machine's clock, as the test that shall prove the contrary.
        yield Cause(TEST_FAILED, HOST, words, known.last.ended_at, now, needs_test=True)
    if less := _reduced(known.capacity, news.capacity):
        words = f"the machine has less than when it was tested: {less}"
        yield Cause(CAPACITY, HOST, words, now, now, needs_test=True)
    if known.state is not State.UNVERIFIED and news.facts is not None:
        yield from _missed(news.facts, now)


def _missed(facts: Facts, now: datetime) -> Iterator[Cause]:
    """Requirements that are known not to be met any more."""
    measured = {one.id for one in requirements.book() if one.is_measured}
    grace = timedelta(hours=DATA["measured"]["grace_h"])
    for one in _unmet(facts):
        if one.outcome is Outcome.FAILED:
            words = f"{one.requirement}: {one.actual}, required {one.required}"
            yield Cause(one.requirement, HOST, words, now, now + grace if one.requirement in measured else now)


def _proof_after(known: Verification, counting: list[Cause]) -> datetime | None:
    """A fault of the hardware is taken back only by a test that began after it, and after it was seen last."""
    times = [one.gone_at or one.since for one in counting if one.needs_test]
    if known.proof_after is not None:
        times.append(known.proof_after)
    return max(times, default=None)


def _lacks(known: Verification, news: News) -> Iterator[Lack]:
    if news.refused:
        yield Lack("refused", news.refused)
    if news.facts is None:
        yield Lack("no_report", "the machine has not reported what it is", remedy="see kaalia status")
    else:
        for one in _unmet(news.facts):
            yield Lack(one.requirement, one.words, one.actual, one.required, one.remedy)
    standing = {cause.code for cause in known.causes}
    for cause in known.causes:
        state = "" if cause.gone_at is None else "; it is over since a short while, and must stay so"
        yield Lack(cause.code, f"{cause.words}{state}", remedy=_remedy(cause.code))
    for fault in news.faults:
        if fault.code not in standing:
            yield Lack(fault.code, fault.message or fitness.words(fault), remedy=_remedy(fault.code))
    yield from _test_lacks(known, news)


def _remedy(code: str) -> str:
    if code == BARRED:
        return "ask the operator of the marketplace"
    if code == TEST_FAILED:
        return "mend what failed, then: kaalia self-test machine"
    if code == CAPACITY:
        return "put back what is gone; or have the machine tested as it is: kaalia self-test machine"
    return f"kaalia doctor explain {code}"


def _test_lacks(known: Verification, news: News) -> Iterator[Lack]:
    remedy = "kaalia self-test machine; the marketplace also asks for one when nobody rents"
    proof = known.proof
    if proof is None:
        left_out = known.last is not None and known.last.result is RunResult.PASSED and known.last.missing
        words = f"the last self-test left out {', '.join(known.last.missing)}" if known.last and left_out else ""
        yield Lack("selftest", words or "no self-test of the whole machine has passed", remedy=remedy)
        return
    if known.proof_after is not None and proof.began_at <= known.proof_after:
        yield Lack("selftest_after_fault", "no self-test has passed since the fault", remedy=remedy)
    if news.capacity is not None and not set(news.capacity.gpu_uuids) <= set(proof.gpu_uuids):
        new = len(set(news.capacity.gpu_uuids) - set(proof.gpu_uuids))
        yield Lack("selftest_gpus", f"{new} GPUs were not there when the machine was tested", remedy=remedy)
    days = DATA["test"]["valid_days"]
    if news.now - proof.ended_at > timedelta(days=days) and not news.is_rented:
        yield Lack("selftest_old", f"the last self-test that passed is older than {days} days", remedy=remedy)


def _unmet(facts: Facts) -> tuple[RequirementVerdict, ...]:
    return requirements.unmet(requirements.verdicts(facts))


def _reduced(before: Capacity | None, now: Capacity | None) -> str:
    """What there is less of; "": nothing, or nobody can tell."""
    if before is None or now is None:
        return ""
    told = []
    if len(now.gpu_uuids) < len(before.gpu_uuids):
        told.append(f"{len(now.gpu_uuids)} of {len(before.gpu_uuids)} GPUs")
    if now.cores < before.cores:
        told.append(f"{now.cores} of {before.cores} logical cores")
    for name, old, new in (
        ("memory", before.memory_bytes, now.memory_bytes),
        ("disk", before.disk_bytes, now.disk_bytes),
    ):
        if old is not None and new is not None and new < old * (1 - DATA["capacity"]["slack"]):
            told.append(f"{format_bytes(new)} of {format_bytes(old)} {name}")
    return ", ".join(told)
