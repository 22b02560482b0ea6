"""What the owner is told, and when: the seven events, what of the machine's rows means one, and what was told before.

        noticed ──(it lasts, delay)──▶ told ──(it ends)──▶ told that it is over ──(comes back within QUIET)──▶ noticed

Nothing is told twice: what is noticed has a key, and what became of the key is remembered. What comes and goes is told
once an hour at most, and its end only when its beginning was.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase

from kaalia.contracts import maintenance
from kaalia.contracts.maintenance import Window
from kaalia.contracts.offer import Listing, end_of_offer
from kaalia.contracts.symptoms import causes
from kaalia.model.health import HOST, OWN_CHANNELS, OpenCondition, Severity
from kaalia.model.standing import OFFLINE_AFTER, Gap, RenterReport

LISTING_ENDS_WITHIN = timedelta(days=7)
DELAY = timedelta(seconds=60)
REPORTS_OF = timedelta(days=7)
"""Older ones are no news, as to a machine that was just told to tell."""
QUIET = timedelta(hours=1)
FORGET_AFTER = timedelta(days=30)
GIVE_UP_AFTER = timedelta(days=3)
BACKOFF_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Waits of a channel after consecutive failures; the last one repeats."""
TEXT_MAX = 500


class Event(StrEnum):
    MACHINE_OFFLINE = "machine_offline"
    VERIFICATION_FAILED = "verification_failed"
    ISSUE_DETECTED = "issue_detected"
    REPORTED_BY_RENTER = "reported_by_renter"
    DISK_LOW = "disk_low"
    LISTING_ENDS = "listing_ends"
    MAINTENANCE_CONFIRMED = "maintenance_confirmed"
    TEST = "test"
    """Of `kaalia notify --test`."""


class State(StrEnum):
    BEGAN = "began"
    OVER = "over"
    ONCE = "once"
    """It has no end, or it was over before it could be told."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something to tell. `key` is unique among all; `lasts`: its end is told too; `until`: it is over already."""

    event: Event
    key: str
    message: str
    since: datetime
    remedy: str = ""
    code: str = ""
    scope: str = HOST
    severity: str = ""
    lasts: bool = False
    until: datetime | None = None
    is_symptom: bool = False
    """Of another condition that stands: its cause is told. It is not over for that, if it was told before."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """What became of a key. `told_at`: when its beginning was told last; `is_told`: this time's beginning was."""

    occurrence: Occurrence
    is_told: bool
    told_at: datetime | None
    over_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the machine's rows say. `heard_at` None: nobody is expected to be heard of."""

    conditions: tuple[OpenCondition, ...] = ()
    listing: Listing | None = None
    windows: tuple[Window, ...] = ()
    verification: str = ""
    verified_before: str | None = None
    """What the verification was before it changed to this."""
    verification_at: datetime | None = None
    reports: tuple[RenterReport, ...] = ()
    heard_at: datetime | None = None
    gap: Gap | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """What the owner wants. `codes`: patterns of conditions' codes that mean an event of their own; `never`: none."""

    codes: Mapping[Event, tuple[str, ...]]
    never: tuple[str, ...] = ()
    delay: timedelta = DELAY
    with_warnings: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    occurrence: Occurrence
    state: State


@dataclass(frozen=True, slots=True)
class Decision:
    """`tell`: in this order; `noticed`: rows to be written, `forget`: keys to be removed."""

    tell: tuple[Told, ...]
    noticed: Mapping[str, Noticed]
    forget: tuple[str, ...]

    @property
    def is_idle(self) -> bool:
        return not (self.tell or self.noticed or self.forget)


def occurrences(facts: Facts, watch: Watch, now: datetime) -> Iterator[Occurrence]:
    """All that is worth telling now, told before or not."""
    yield from _offline(facts, now)
    yield from _verification(facts)
    shown = {id(one) for one in causes(facts.conditions)}
    for one in facts.conditions:
        event = None if one.source == OWN_CHANNELS or now - one.since < watch.delay else event_of(one, watch)
        if event is not None and not (event is Event.MACHINE_OFFLINE and facts.heard_at is not None):
            yield _of_condition(one, event, is_symptom=id(one) not in shown)
    for report in facts.reports:
        if now - report.created_at > REPORTS_OF:
            continue
        message = f"a renter reports: {_cut(report.problem)}: {_cut(report.message)}"
        remedy = "look at the machine: kaalia doctor; all reports: vastai reports ID"
        yield Occurrence(
            Event.REPORTED_BY_RENTER, f"report {report.report_id}", message, report.created_at, remedy=remedy
        )
    yield from _listing(facts.listing, now)
    for window in maintenance.open_windows(facts.windows, now):
        key = f"maintenance {window.start_at.timestamp():.0f} {window.end_at.timestamp():.0f}"
        message = f"maintenance is confirmed {maintenance.words(window)}; renters are told"
        yield Occurrence(Event.MAINTENANCE_CONFIRMED, key, message, window.scheduled_at)


def event_of(one: OpenCondition, watch: Watch) -> Event | None:
    """None: it is not told."""
    code, severity = one.condition.problem.code, one.condition.severity
    if any(fnmatchcase(code, pattern) for pattern in watch.never):
        return None
    for event, patterns in watch.codes.items():
        if any(fnmatchcase(code, pattern) for pattern in patterns):
            return event
    return Event.ISSUE_DETECTED if severity is not Severity.WARN or watch.with_warnings else None


def decide(found: Iterable[Occurrence], before: Mapping[str, Noticed], now: datetime) -> Decision:
    """What to tell of what is found, after what was noticed before."""
    tell: list[Told] = []
    noticed: dict[str, Noticed] = {}
    present = {one.key: one for one in found}
    for key, one in present.items():
        if one.is_symptom:
            continue
        known = before.get(key)
        state, new = _step(one, known, now)
        if state is not None:
            tell.append(Told(one, state))
        if new != known:
            noticed[key] = new
    for key, known in before.items():
        if key not in present and known.over_at is None:
            if known.is_told and known.occurrence.lasts:
                tell.append(Told(replace(known.occurrence, until=now), State.OVER))
            noticed[key] = replace(known, over_at=now)
    forget = (
        key
        for key, known in before.items()
        if key not in present and known.over_at is not None and now - known.over_at > _kept(known.occurrence)
    )
    return Decision(tuple(tell), noticed, tuple(forget))


def _kept(over: Occurrence) -> timedelta:
    """What lasts may be told anew after QUIET, known or not; what is told once is not to be told twice."""
    return QUIET if over.lasts else FORGET_AFTER


def next_try_s(failures: int) -> float:
    """After so many consecutive failures of a channel, at least one."""
    return BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]


def _step(one: Occurrence, known: Noticed | None, now: datetime) -> tuple[State | None, Noticed]:
    if known is None:
        over_at = now if one.until is not None else None
        return _beginning(one), Noticed(one, is_told=True, told_at=now, over_at=over_at)
    if known.over_at is None and one.until is not None:
        return (State.OVER if known.is_told else None), replace(known, occurrence=one, over_at=now)
    if one.until is not None or (known.over_at is None and known.is_told):
        return None, known
    if not one.lasts:  # it was there, was gone, and is the same again: a window, a listing's end
        return None, replace(known, over_at=None)
    if known.told_at is None or now - known.told_at >= QUIET:
        return State.BEGAN, Noticed(one, is_told=True, told_at=now)
    return None, replace(known, occurrence=one, is_told=False, over_at=None)


def _beginning(one: Occurrence) -> State:
    return State.BEGAN if one.lasts and one.until is None else State.ONCE


def _offline(facts: Facts, now: datetime) -> Iterator[Occurrence]:
    remedy = "check power, network and the marketplace: kaalia status"
    if facts.gap is not None:
        since, until = facts.gap.since, facts.gap.until
        minutes = (until - since).total_seconds() / 60
        yield Occurrence(
            Event.MACHINE_OFFLINE,
            _offline_key(since),
            f"the machine was offline for {minutes:.0f} min: the marketplace did not hear of it",
            since,
            lasts=True,
            until=until,
        )
    if facts.heard_at is not None and now - facts.heard_at >= OFFLINE_AFTER:
        message = "the machine is offline: the marketplace does not hear of it; what runs goes on"
        key = _offline_key(facts.heard_at)
        yield Occurrence(
            Event.MACHINE_OFFLINE, key, message, facts.heard_at, remedy=remedy, severity=Severity.CRITICAL, lasts=True
        )


def _offline_key(since: datetime) -> str:
    return f"offline {since.timestamp():.0f}"


def _verification(facts: Facts) -> Iterator[Occurrence]:
    is_lost = facts.verified_before == "verified" and facts.verification != "verified"
    if facts.verification_at is not None and (facts.verification == "deverified" or is_lost):
        message = f"the marketplace no longer counts the machine as verified: it is {_cut(facts.verification)}"
        yield Occurrence(
            Event.VERIFICATION_FAILED,
            f"verification {facts.verification_at.timestamp():.0f}",
            message,
            facts.verification_at,
            remedy="see why, and what it takes: kaalia verification",
            severity=Severity.CRITICAL,
            lasts=True,
        )


def _of_condition(one: OpenCondition, event: Event, *, is_symptom: bool) -> Occurrence:
    found, problem = one.condition, one.condition.problem
    return Occurrence(
        event,
        f"condition {problem.code} {found.scope}",
        _cut(problem.message),
        one.since,
        remedy=_cut(problem.remedy),
        code=problem.code,
        scope=found.scope,
        severity=found.severity,
        lasts=True,
        is_symptom=is_symptom,
    )


def _listing(listing: Listing | None, now: datetime) -> Iterator[Occurrence]:
    """An end that rolls on moves each day: it is no end."""
    end_at = None if listing is None or listing.rolling_duration_s is not None else end_of_offer(listing, now)
    if end_at is not None and timedelta(0) < end_at - now <= LISTING_ENDS_WITHIN:
        yield Occurrence(
            Event.LISTING_ENDS,
            f"listing {end_at.timestamp():.0f}",
            f"the listing ends at {end_at:%Y-%m-%d %H:%M} UTC: the machine is not offered after it",
            now,
            remedy="list it with a later end: vastai list machine ID --end_date DATE",
        )


def _cut(text: str) -> str:
    """One line, of bearable length."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= TEXT_MAX else line[: TEXT_MAX - 3] + "..."
