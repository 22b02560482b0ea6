"""Bytes to and from the internet: sums out of counters that may begin anew, lines of the journal, and what is owed.

The machine's sums never shrink. It says them as they are, not what was added: so a line that is lost, told twice or
told by an older copy of its books costs nobody anything twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kaalia.model.metering import Edge, Entry, Meter
from kaalia.model.traffic import NO_BYTES, Bytes, Counter
from kaalia.units import GB

LINE_EVERY = timedelta(hours=1)
LINE_BYTES = 10 * GB
"""After so many a line does not wait for its hour."""
RATE_OVER = timedelta(seconds=5)
"""Rates are taken over this time at least: readings may follow each other closely."""
RATE_LASTS = timedelta(minutes=5)
"""An older reading says nothing of now."""
FASTEST_BYTES_PER_S = 12_500_000_000
"""100 Gbit/s. What a machine claims beyond it for one contract is not believed."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of one contract's traffic. `raw`, `relayed`: what its counter said last."""

    counter: Counter
    generation: int
    raw: Bytes
    total: Bytes
    """Since the contract began."""
    read_at: datetime
    before: Bytes
    before_at: datetime
    """`total` as of an earlier reading: rates are taken from there."""
    told: Bytes
    told_at: datetime
    """`total` of the last lines of the journal; before the first ones, when counting began."""
    relayed: Bytes = NO_BYTES


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second."""

    up: float
    down: float


def begun(counter: Counter, generation: int, now: datetime) -> Tally:
    return Tally(counter, generation, Bytes(), Bytes(), now, Bytes(), now, Bytes(), now)


def renewed(tally: Tally, counter: Counter, generation: int) -> Tally:
    """Another counter, from 0 on."""
    return replace(tally, counter=counter, generation=generation, raw=Bytes(), relayed=Bytes())


def counted(tally: Tally, raw: Bytes, now: datetime, relayed: Bytes = NO_BYTES) -> Tally:
    """One more reading. A counter that says less than before was set to zero in between."""
    grown = _grown(tally.raw, raw) + _grown(tally.relayed, relayed)
    read = replace(tally, raw=raw, relayed=relayed, total=tally.total + grown, read_at=now)
    if timedelta(0) <= now - tally.read_at < RATE_OVER:
        return read
    return replace(read, before=tally.total, before_at=tally.read_at)


def _grown(last: Bytes, raw: Bytes) -> Bytes:
    up, down = ((new - old if new >= old else new) for old, new in ((last.up, raw.up), (last.down, raw.down)))
    return Bytes(up, down)


def rate(tally: Tally, now: datetime) -> Rate | None:
    """Between the last readings. None: not known now."""
    passed_s = (tally.read_at - tally.before_at).total_seconds()
    moved = tally.total - tally.before
    if passed_s <= 0:
        return None
    if moved.both and not timedelta(0) <= now - tally.read_at <= RATE_LASTS:
        return None
    return Rate(moved.up / passed_s, moved.down / passed_s)


def is_due(tally: Tally, now: datetime, *, rests: bool) -> bool:
    """Whether there is news that the journal should have. `rests`: the workload does not run, or is gone."""
    news = tally.total - tally.told
    waited = now - tally.told_at
    return news.both > 0 and (rests or news.both >= LINE_BYTES or not timedelta(0) <= waited < LINE_EVERY)


def lines(tally: Tally, now: datetime, reason: str) -> tuple[tuple[Entry, ...], Tally]:
    """The journal lines that tell the sums, and the tally that knows it."""
    at = max(now, tally.told_at)
    return tuple(_lines(tally, at, reason)), replace(tally, told=tally.total, told_at=at)


def _lines(tally: Tally, at: datetime, reason: str) -> Iterator[Entry]:
    sums = (
        (Meter.INET_UP, tally.told.up, tally.total.up),
        (Meter.INET_DOWN, tally.told.down, tally.total.down),
    )
    for meter, told, total in sums:
        if total > told:
            yield Entry(tally.counter.contract_id, tally.generation, meter, Edge.COUNT, at, total, reason)


# The marketplace's side


@dataclass(frozen=True, slots=True)
class Heard:
    """A machine's last word on one meter of one contract."""

    total: int
    at: datetime


def news(last: Heard | None, entry: Entry) -> tuple[Heard, int] | None:
    """The new last word, and the bytes that it adds; None: it says nothing new.

    A smaller sum is that of a machine which lost its books: it counts on from there, and what it counted in
    between, if anything, is nobody's.
    """
    if last is None:
        return Heard(entry.amount, entry.at), entry.amount
    if entry.at < last.at or entry.amount == last.total:
        return None
    if entry.amount > last.total:
        return Heard(entry.amount, entry.at), entry.amount - last.total
    return (Heard(entry.amount, entry.at), 0) if entry.at > last.at else None


def owed(size: int, since: datetime, until: datetime, ends_at: datetime | None) -> int:
    """Of so many bytes, counted from `since` to `until`, what was agreed to: nothing after `ends_at`.

    Bytes of a time that reaches beyond it are taken as spread evenly.
    """
    whole = max(until - since, timedelta(0))
    believed = min(size, int(FASTEST_BYTES_PER_S * whole.total_seconds()))
    if ends_at is None or until <= ends_at:
        return believed
    return int(believed * (max(ends_at - since, timedelta(0)) / whole)) if whole else 0
