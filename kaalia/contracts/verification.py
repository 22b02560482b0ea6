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

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from kaalia.contracts import impact, requirements
from kaalia.contracts.impact import Impact
from kaalia.contracts.requirement_facts import Facts
from kaalia.contracts.verification_lacks import all_lacks
from kaalia.contracts.verification_news import BARRED, CAPACITY, DATA, TEST_FAILED, News, counts, is_less, unmet
from kaalia.model.health import HOST
from kaalia.model.selftest import Outcome, RunResult
from kaalia.model.verification import Capacity, Cause, Change, Lack, State, Verification, VerificationView
from kaalia.units import format_bytes

RETURNED = "enrolled_again"
HISTORY_KEPT = 20
CAUSES_KEPT = 64
"""The oldest of them: a machine of which more is wrong is not verified anyway."""


def begun(now: datetime) -> Verification:
    return Verification(State.UNVERIFIED, now)


def advance(known: Verification, news: News) -> Verification:
    """What follows from the news. The same news again changes nothing but what time alone brings about."""
    causes = _causes(known, news)
    counting = [one for one in causes if counts(one, news.now)]
    proof_after = _proof_after(known, counting)
    lacks = tuple(all_lacks(replace(known, causes=causes, proof_after=proof_after), news))
    state, why = _state(known, counting, lacks)
    known = replace(known, capacity=_counted(known, news.capacity), asides=_asides(known, news))
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


def returned(known: Verification, now: datetime) -> Verification:
    """A machine that was deleted and is enrolled again: it must prove itself anew, and what it lost it has not back."""
    state, since, history = known.state, known.since, known.history
    if state is State.VERIFIED:
        state, since = State.UNVERIFIED, now
        history = (*history, Change(now, state, (RETURNED,)))[-HISTORY_KEPT:]
    return replace(known, state=state, since=since, proof=None, capacity=None, ordered=None, history=history)


def lifted(known: Verification) -> Verification:
    """What follows, the next news show."""
    return replace(known, barred="")


def view(known: Verification) -> VerificationView:
    return VerificationView(
        known.state, known.since, known.causes, known.lacks, known.last, known.ordered, known.history, known.asides
    )


def costs(known: Verification | None, now: datetime) -> tuple[Cause, ...]:
    """What costs a machine its verification now. None: nothing is known of it."""
    return tuple(one for one in known.causes if counts(one, now)) if known else ()


def nears(known: Verification | None, now: datetime) -> tuple[Cause, ...]:
    """What stands, and will cost it that when it goes on."""
    return tuple(one for one in known.causes if one.gone_at is None and not counts(one, now)) if known else ()


def _counted(known: Verification, now: Capacity | None) -> Capacity | None:
    """What the machine is held to: what it had when it was tested; what nobody could tell then, as it is seen first."""
    if known.proof is None or now is None or known.capacity is None:
        return known.capacity if known.proof is None else known.capacity or now
    disk_bytes = known.capacity.disk_bytes
    return replace(known.capacity, disk_bytes=now.disk_bytes if disk_bytes is None else disk_bytes)


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


_LAPSES = frozenset({"selftest_old", "selftest_gpus", "selftest_unanswered", "gpus_elsewhere", "refused"})
"""What takes a verification back though nothing is wrong: what it was given for holds no more."""


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
            kept.append(replace(one, since=earlier.since, counts_at=_counts_at(earlier, news.now), gone_at=None))
    for key, one in before.items():
        if key in seen:
            continue
        if news.conditions is None and _is_condition(one):
            kept.append(one)  # nobody says that it is over
            continue
        gone_at = one.gone_at or news.now
        settles = timedelta(0) if key[0] in _SETTLED_BY_ITSELF else impact.settle()
        if news.now - gone_at < settles:
            kept.append(replace(one, gone_at=gone_at))
    kept.sort(key=lambda one: (one.code not in _SETTLED_BY_ITSELF, one.since, one.code, one.scope))
    return tuple(kept[:CAUSES_KEPT])


def _counts_at(earlier: Cause, now: datetime) -> datetime:
    """Of one that is back: the grace is for the time in which it stands, so that pauses neither win nor cost any."""
    if earlier.gone_at is None or counts(earlier, now):
        return earlier.counts_at
    return earlier.counts_at + (now - earlier.gone_at)


def _is_condition(cause: Cause) -> bool:
    return any(found.impact is Impact.MACHINE for found in impact.named(cause.code))


_SETTLED_BY_ITSELF = frozenset({BARRED, CAPACITY, TEST_FAILED})
"""What a person or a test took back comes and goes by no chance."""


def _seen(known: Verification, news: News) -> Iterator[Cause]:
    now = news.now
    for fault in news.conditions or ():
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


def _asides(known: Verification, news: News) -> tuple[Cause, ...]:
    """What virtual machines, or one rental, suffer from."""
    if news.conditions is None:
        return known.asides
    since = {(one.code, one.scope): one.since for one in known.asides}
    found = []
    for fault in news.conditions:
        effect = impact.effect(fault.code, fault.severity)
        if effect is not None and effect.impact is not Impact.MACHINE:
            began_at = since.get((fault.code, fault.scope), news.now)
            found.append(Cause(fault.code, fault.scope, fault.message, began_at, began_at))
    return tuple(found[:CAUSES_KEPT])


def _missed(facts: Facts, now: datetime) -> Iterator[Cause]:
    """Requirements that are known not to be met any more."""
    measured = {one.id for one in requirements.book() if one.is_measured}
    grace = timedelta(hours=DATA["measured"]["grace_h"])
    for one in unmet(facts):
        if one.outcome is Outcome.FAILED:
            words = f"{one.requirement}: {one.actual}, required {one.required}"
            yield Cause(one.requirement, HOST, words, now, now + grace if one.requirement in measured else now)


def _proof_after(known: Verification, counting: list[Cause]) -> datetime | None:
    """A fault of the hardware is taken back only by a test that began after it, and after it was seen last."""
    times = [one.gone_at or one.since for one in counting if one.needs_test]
    if known.proof_after is not None:
        times.append(known.proof_after)
    return max(times, default=None)


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
        if old is not None and new is not None and is_less(old, new):
            told.append(f"{format_bytes(new)} of {format_bytes(old)} {name}")
    return ", ".join(told)
