"""How reliable a machine is: the published formula, the same on the machine and on the marketplace.

    reliability = 1 - (lost + 0.05 x prior) / (watched + prior)

*watched* is the time since the marketplace first heard of the machine, the last 30 days of it at most. *lost* is the
sum of its silences in that time, by weight; a silence is a time in which it was not heard of for longer than 180 s
(`Record.offline_after_s`), counted from its beginning. *prior* is what a machine begins with: as if it had been watched
for a week and heard of 95 % of the time; it goes as the 30 days fill up. So an outage costs nothing after 30 days.

    weight 1     a renter's workload ran when the machine was last heard of
    weight 0.5   nobody's did
    x 0.2        for what lies in a window of maintenance that was announced a day before it began
    x 0          while the marketplace itself was away

Only what the marketplace saw counts: what the host says of it names the cause, and changes no cost.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kaalia.contracts.maintenance import Window
from kaalia.model.availability import SILENT, Outage, Record, Silence, Span

WINDOW = timedelta(days=30)
"""An outage is forgotten after a month: a host can wait for it, and a renter's lease is seldom longer."""
PRIOR_RELIABILITY = 0.95
PRIOR_WEIGHT = timedelta(days=7)
"""Above the 0.90 that the public self-test asks for, and a week of its own record outweighs the guess."""
IDLE_WEIGHT = 0.5
"""The public marketplace weighs an outage by earnings: an idle machine loses less."""
PLANNED_WEIGHT = 0.2
ANNOUNCED_BEFORE = timedelta(days=1)
"""A renter has a day to save his work."""
SILENCES_MAX = 500
"""Of one machine: with more of them in a month the shortest are left out, so that flapping pays for nothing longer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row for people: an outage in the host's words, a silence that nobody explained, or both in one."""

    outage: Outage | None
    silence: Silence | None

    @property
    def begin_at(self) -> datetime:
        return self.outage.begin_at if self.outage else _silence(self).begin_at


def figure(record: Record, now: datetime, going_on: Silence | None = None) -> float:
    """0 to 1. `going_on`: the silence that lasts until now, if there is one."""
    silences = record.silences if going_on is None else (*record.silences, going_on)
    lost_s = sum(_lost_s(one, now) for one in silences)
    prior_s = _prior(record, now).total_seconds()
    value = 1 - (lost_s + prior_s * (1 - PRIOR_RELIABILITY)) / _base_s(record, now)
    return min(1.0, max(0.0, value))


def cost(record: Record, silence: Silence, now: datetime) -> float:
    """By how much this silence lowers the figure now."""
    return _lost_s(silence, now) / _base_s(record, now)


def what_if(record: Record, now: datetime, length: timedelta, *, is_rented: bool, is_planned: bool) -> float:
    """What an outage that begins now would cost, at the moment it is over."""
    length_s = length.total_seconds()
    if length_s <= record.offline_after_s:
        return 0.0
    end_at = now + length
    silence = Silence(now, end_at, is_rented, planned_s=length_s if is_planned else 0.0)
    return cost(record, silence, end_at)


def recovers_at(silence: Silence) -> datetime:
    """From then on it costs nothing any more."""
    return silence.end_at + WINDOW


def begun(watched_from: datetime, silent: timedelta = timedelta(0)) -> Record:
    """Of a machine that is new, or of which only sums are known: so long silent at the beginning."""
    silences = (Silence(watched_from, watched_from + silent, is_rented=True),) if silent > timedelta(0) else ()
    return Record(watched_from, silences=silences)


def silence(
    record: Record, heard_at: datetime, now: datetime, windows: Iterable[Window] = (), away: Iterable[Span] = ()
) -> Silence | None:
    """The time since the machine was last heard of, if it is one to count. `away`: when the marketplace was."""
    length_s = (now - heard_at).total_seconds()
    excused_s = min(length_s, sum(_common_s(heard_at, now, one.begin_at, one.end_at) for one in away))
    if length_s - excused_s <= record.offline_after_s:
        return None
    announced = [one for one in windows if one.scheduled_at <= min(heard_at, one.start_at - ANNOUNCED_BEFORE)]
    planned_s = sum(_common_s(heard_at, now, one.start_at, one.end_at) for one in announced)
    return Silence(heard_at, now, record.is_rented, min(planned_s, length_s - excused_s), excused_s)


def with_silence(record: Record, over: Silence, now: datetime) -> Record:
    """One more; what is forgotten goes, and the shortest beyond SILENCES_MAX."""
    kept = [one for one in (*record.silences, over) if recovers_at(one) > now]
    if len(kept) > SILENCES_MAX:
        longest = sorted(kept, key=lambda one: one.end_at - one.begin_at, reverse=True)[:SILENCES_MAX]
        kept = sorted(longest, key=lambda one: one.begin_at)
    return replace(record, silences=tuple(kept))


def remembered(record: Record, going_on: Silence | None, now: datetime) -> Record:
    """With the silence that lasts, and without what is forgotten: what costs something now."""
    silences = record.silences if going_on is None else (*record.silences, going_on)
    return replace(record, silences=tuple(one for one in silences if recovers_at(one) > now))


def explained(record: Record, outages: Iterable[Outage]) -> Record:
    """The causes of silences by the host's words: of each the outage that it shares most time with."""
    told = [one for one in outages if one.cause in SILENT]
    if not told:
        return record
    return replace(record, silences=tuple(_explained(one, told) for one in record.silences))


def lines(outages: Iterable[Outage], record: Record, now: datetime) -> tuple[Line, ...]:
    """The ledger of both sides as one, the oldest first. A silence belongs to the outage that shares most of it."""
    ledger = list(outages)
    by_outage: dict[int, Silence] = {}
    alone: list[Line] = []
    for one in record.silences:
        shared = [_shared_s(one, outage, now) if outage.cause in SILENT else 0.0 for outage in ledger]
        best = max(range(len(ledger)), key=shared.__getitem__, default=None)
        if best is None or not shared[best] or best in by_outage:
            alone.append(Line(None, one))
        else:
            by_outage[best] = one
    joined = [Line(outage, by_outage.get(number)) for number, outage in enumerate(ledger)]
    return tuple(sorted((*joined, *alone), key=lambda line: line.begin_at))


def _silence(line: Line) -> Silence:
    if line.silence is None:
        raise ValueError("a line without outage and silence")
    return line.silence


def _explained(one: Silence, told: list[Outage]) -> Silence:
    best = max(told, key=lambda outage: _shared_s(one, outage, one.end_at))
    shared_s, length_s = _shared_s(one, best, one.end_at), (one.end_at - one.begin_at).total_seconds()
    is_better = shared_s > (0 if one.cause is None else length_s / 2)
    return replace(one, cause=best.cause) if is_better else one


def _shared_s(one: Silence, outage: Outage, now: datetime) -> float:
    return _common_s(one.begin_at, one.end_at, outage.begin_at, outage.end_at or now)


def _prior(record: Record, now: datetime) -> timedelta:
    return min(PRIOR_WEIGHT, WINDOW - _watched(record, now))


def _watched(record: Record, now: datetime) -> timedelta:
    return min(WINDOW, max(timedelta(0), now - record.watched_from))


def _base_s(record: Record, now: datetime) -> float:
    return (_watched(record, now) + _prior(record, now)).total_seconds()


def _lost_s(one: Silence, now: datetime) -> float:
    """By weight, of the part that is not forgotten yet."""
    length_s = (one.end_at - one.begin_at).total_seconds()
    if length_s <= 0:
        return 0.0
    remembered = _common_s(one.begin_at, one.end_at, now - WINDOW, now) / length_s
    counted_s = length_s - one.excused_s - one.planned_s * (1 - PLANNED_WEIGHT)
    return max(0.0, counted_s) * remembered * (1.0 if one.is_rented else IDLE_WEIGHT)


def _common_s(begin_at: datetime, end_at: datetime, other_begin_at: datetime, other_end_at: datetime) -> float:
    return max(0.0, (min(end_at, other_end_at) - max(begin_at, other_begin_at)).total_seconds())
