"""What is counted and what it costs: journal edges from what is seen of a workload, sums, charges.

    state of the workload                          GPUs   disk
    waiting, never admitted; rejected; ended        no     no
    pulling, creating, starting ("Creating")        no     yes
    running ("Loading", "Ready")                    yes    yes
    stopping, unknown                               as before: what ran runs on until its end is seen
    stopped, exited, failed ("Inactive")            no     while there is a container
    removing                                        no     yes

Time that nobody can prove is not counted: an end that was not seen is the last moment at which the run was seen.
Money is exact up to one line (one interval at one price), which is rounded half to even to NANO_USD; sums add lines.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from kaalia.model.metering import Edge, Entry, Interval, Meter
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.units import GB, HOURS_PER_MONTH

NANO_USD = Decimal("1e-9")
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = Decimal(3_600_000_000)

_PREPARING = (WorkloadState.PULLING, WorkloadState.CREATING, WorkloadState.STARTING)
_UNDECIDED = (*_PREPARING, WorkloadState.STOPPING, WorkloadState.UNKNOWN)
_KEEPS_DISK = (*_PREPARING, WorkloadState.RUNNING)
_AS_BEFORE = (WorkloadState.STOPPING, WorkloadState.UNKNOWN, WorkloadState.REMOVING)


@dataclass(frozen=True, slots=True)
class Standing:
    """The last START of a meter, and its END when it has ended."""

    start: Entry | None = None
    end: Entry | None = None

    @property
    def is_open(self) -> bool:
        return self.start is not None and self.end is None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the container engine says of a container. While it runs, `finished_at` is the end of its run before."""

    is_running: bool
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Proof:
    """When this machine last saw what runs, and when it booted: nothing ran in between for certain."""

    proven_at: datetime | None = None
    booted_at: datetime | None = None


def edges(
    run: Standing, disk: Standing, status: WorkloadStatus, seen: Seen | None, disk_bytes: int, proof: Proof
) -> tuple[Entry, ...]:
    """The journal lines that a new status adds. `disk_bytes`: what was agreed."""
    return (*_disk_edges(disk, status, disk_bytes), *_run_edges(run, status, seen, proof))


def volume_edges(kept: Standing, status: VolumeStatus, size_bytes: int) -> tuple[Entry, ...]:
    """The journal lines that a volume's new status adds. `size_bytes`: what was agreed."""
    if status.state is VolumeState.REMOVING:
        return ()
    is_kept = status.state is VolumeState.READY and status.problem is None
    if is_kept and not kept.is_open:
        at = _after(kept, status.as_of)
        return (Entry(status.volume_id, 1, Meter.VOLUME, Edge.START, at, size_bytes, status.state),)
    if not is_kept and kept.start is not None and kept.is_open:
        reason = status.problem.code if status.problem else status.state
        return (replace(kept.start, edge=Edge.END, at=max(status.as_of, kept.start.at), reason=reason),)
    return ()


def closing(open_starts: Iterable[Entry], at: datetime, reason: str) -> tuple[Entry, ...]:
    """Ends for what runs, at one time."""
    return tuple(replace(start, edge=Edge.END, at=max(at, start.at), reason=reason) for start in open_starts)


def boot_edges(open_starts: Iterable[Entry], proven_at: datetime | None, booted_at: datetime) -> tuple[Entry, ...]:
    """The machine was down from its last proof of life to its boot: what was open ends there, disks begin anew."""
    return tuple(entry for start in open_starts for entry in _outage(start, proven_at, booted_at))


def _outage(start: Entry, proven_at: datetime | None, booted_at: datetime) -> Iterator[Entry]:
    down_at = max(start.at, min(proven_at or start.at, booted_at))
    yield replace(start, edge=Edge.END, at=down_at, reason="machine_down")
    if start.meter is not Meter.RUN:
        yield replace(start, at=max(down_at, booted_at), reason="machine_up")


def _disk_edges(disk: Standing, status: WorkloadStatus, disk_bytes: int) -> Iterator[Entry]:
    if status.state in _AS_BEFORE:
        return
    is_kept = status.state in _KEEPS_DISK or (
        status.container_id is not None and status.state is not WorkloadState.ENDED
    )
    if is_kept and not disk.is_open:
        at = _after(disk, status.as_of)
        yield Entry(status.contract_id, status.generation, Meter.DISK, Edge.START, at, disk_bytes, status.state)
    if not is_kept and disk.is_open:
        yield _end(disk, status.as_of, status)


def _run_edges(run: Standing, status: WorkloadStatus, seen: Seen | None, proof: Proof) -> Iterator[Entry]:
    started_at = (seen and seen.started_at) or status.started_at
    finished_at = _real_end(started_at, (seen and seen.finished_at) or status.finished_at, proof)
    if status.state is WorkloadState.RUNNING:
        yield from _running_edges(run, status, started_at, finished_at or proof.proven_at)
    elif run.is_open:
        ended_at = _ended_at(run, status, seen, finished_at, proof)
        if ended_at is not None:
            yield _end(run, ended_at, status)
    elif seen is not None and not seen.is_running and started_at and finished_at and _is_news(run, started_at):
        # It ran and ended before anyone could write down that it did.
        start = _run_start(run, status, started_at)
        yield start
        yield replace(start, edge=Edge.END, at=max(start.at, finished_at))


def _running_edges(
    run: Standing, status: WorkloadStatus, started_at: datetime | None, finished_at: datetime | None
) -> Iterator[Entry]:
    if run.start is not None and run.is_open:
        if started_at is None or not _is_news(run, started_at):
            return
        # It ended and was started again; the end of the run before stands beside the new start.
        end = _end(run, min(finished_at or run.start.at, started_at), status)
        run = Standing(run.start, end)
        yield end
    at = started_at if started_at is not None and _is_news(run, started_at) else status.as_of
    yield _run_start(run, status, at)


def _ended_at(
    run: Standing, status: WorkloadStatus, seen: Seen | None, finished_at: datetime | None, proof: Proof
) -> datetime | None:
    """When an open run came to its end by this status; None: it goes on."""
    is_before = run.start is None or finished_at is None or finished_at < run.start.at
    if status.state in _UNDECIDED:
        return None if seen is None or seen.is_running or is_before else finished_at
    if not is_before:
        return finished_at
    if status.state is WorkloadState.REMOVING or seen is not None or status.container_id is not None:
        return status.as_of
    return proof.proven_at or (run.start.at if run.start else status.as_of)


def _real_end(started_at: datetime | None, finished_at: datetime | None, proof: Proof) -> datetime | None:
    """An engine that comes up after a crash of the machine gives its own time as the end of what ran before."""
    if started_at is None or finished_at is None or proof.booted_at is None:
        return finished_at
    if not started_at < proof.booted_at <= finished_at:
        return finished_at
    return max(started_at, min(proof.proven_at or started_at, proof.booted_at))


def _is_news(run: Standing, started_at: datetime | None) -> bool:
    return started_at is not None and (run.start is None or started_at > run.start.at)


def _run_start(run: Standing, status: WorkloadStatus, at: datetime) -> Entry:
    gpus = len(status.gpu_uuids)
    return Entry(
        status.contract_id, status.generation, Meter.RUN, Edge.START, _after(run, at), gpus, WorkloadState.RUNNING
    )


def _after(standing: Standing, at: datetime) -> datetime:
    return max(at, standing.end.at) if standing.end is not None else at


def _end(standing: Standing, at: datetime, status: WorkloadStatus) -> Entry:
    if standing.start is None:
        raise ValueError("a meter that was never started has no end")
    return replace(standing.start, edge=Edge.END, at=max(at, standing.start.at), reason=status.state)


def intervals(entries: Iterable[Entry]) -> tuple[Interval, ...]:
    """Entries, in order, as intervals by start. An END without a START is no time."""
    done: list[Interval] = []
    still: dict[tuple[int, Meter], Interval] = {}
    for entry in entries:
        key = (entry.contract_id, entry.meter)
        begun = still.pop(key, None)
        if begun is not None:
            done.append(replace(begun, ended_at=entry.at))
        if entry.edge is Edge.START:
            still[key] = Interval(entry.contract_id, entry.meter, entry.amount, entry.at)
    return tuple(sorted((*done, *still.values()), key=lambda one: (one.started_at, one.meter)))


def follow(last: Interval | None, entry: Entry, heard_at: datetime) -> tuple[Interval, ...]:
    """What an entry changes of the meter's last interval: the new form of it, and the one that begins; or nothing.

    `heard_at`: the last word of the machine before this one. A machine that lost its journal sends again what was
    sent, or begins anew while the interval before is open: that one ends where the machine was last heard of.
    """
    if entry.edge is Edge.END:
        is_open = last is not None and last.ended_at is None
        return (replace(last, ended_at=max(entry.at, last.started_at)),) if last is not None and is_open else ()
    if last is None:
        return (_begun(entry, entry.at),)
    if entry.at <= last.started_at:
        return ()
    if last.ended_at is None:
        cut = replace(last, ended_at=max(last.started_at, min(entry.at, heard_at)))
        return (cut, _begun(entry, entry.at))
    return (_begun(entry, max(entry.at, last.ended_at)),)


def _begun(entry: Entry, at: datetime) -> Interval:
    return Interval(entry.contract_id, entry.meter, entry.amount, at)


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums of one contract, or of one volume, exact to the microsecond."""

    run_s: Decimal = Decimal(0)
    gpu_s: Decimal = Decimal(0)
    disk_s: Decimal = Decimal(0)
    disk_byte_s: Decimal = Decimal(0)


def usage(spent: Iterable[Interval], until: datetime) -> Usage:
    """Sums up to `until`; what goes on counts up to then."""
    total = Usage()
    for one in spent:
        seconds = _microseconds(one.started_at, min(one.ended_at or until, until)) / Decimal(10**6)
        if one.meter is Meter.RUN:
            total = replace(total, run_s=total.run_s + seconds, gpu_s=total.gpu_s + seconds * one.amount)
        else:
            total = replace(total, disk_s=total.disk_s + seconds, disk_byte_s=total.disk_byte_s + seconds * one.amount)
    return total


@dataclass(frozen=True, slots=True)
class Rate:
    """US dollars from `valid_from` on: the whole contract's run by the hour, its disk or volume by GB and month, its
    traffic by GB."""

    valid_from: datetime
    run_usd_per_hour: Decimal
    disk_usd_per_gb_month: Decimal
    inet_up_usd_per_gb: Decimal = Decimal(0)
    inet_down_usd_per_gb: Decimal = Decimal(0)

    def usd_per_gb(self, meter: Meter) -> Decimal:
        """Of traffic."""
        return self.inet_up_usd_per_gb if meter is Meter.INET_UP else self.inet_down_usd_per_gb


@dataclass(frozen=True, slots=True)
class Line:
    """One interval, or the part of it that falls into a time asked for, at one price."""

    contract_id: int
    meter: Meter
    started_at: datetime
    ended_at: datetime
    usd_per_hour: Decimal
    amount_usd: Decimal

    @property
    def hours(self) -> Decimal:
        return _microseconds(self.started_at, self.ended_at) / _MICROSECONDS_PER_HOUR


def lines(spent: Interval, rates: Sequence[Rate], since: datetime, until: datetime) -> tuple[Line, ...]:
    """What an interval costs between `since` and `until`, one line for each price. `rates` in order of time.

    The first rate holds for whatever came before it.
    """
    found = []
    for at, rate in enumerate(rates):
        begins = max(spent.started_at, since, rate.valid_from if at else _BEGINNING)
        ends = min(spent.ended_at or until, until, rates[at + 1].valid_from if at + 1 < len(rates) else until)
        if begins < ends:
            found.append(_line(spent, rate, begins, ends))
    return tuple(found)


_BEGINNING = datetime.min.replace(tzinfo=UTC)


def _line(spent: Interval, rate: Rate, begins: datetime, ends: datetime) -> Line:
    per_hour = rate.run_usd_per_hour
    if spent.meter is not Meter.RUN:
        per_hour = rate.disk_usd_per_gb_month * spent.amount / GB / HOURS_PER_MONTH
    exact = per_hour * _microseconds(begins, ends) / _MICROSECONDS_PER_HOUR
    amount = exact.quantize(NANO_USD, ROUND_HALF_EVEN)
    return Line(spent.contract_id, spent.meter, begins, ends, per_hour, amount)


def traffic_usd(counted: Interval, rates: Sequence[Rate]) -> Decimal:
    """What the bytes of a closed interval cost: by the lowest price that held in it. `rates` in order of time."""
    prices = [
        rate.usd_per_gb(counted.meter)
        for at, rate in enumerate(rates)
        if (not at or rate.valid_from <= (counted.ended_at or rate.valid_from))
        and (at + 1 == len(rates) or rates[at + 1].valid_from > counted.started_at)
    ]
    exact = min(prices, default=Decimal(0)) * counted.amount / GB
    return exact.quantize(NANO_USD, ROUND_HALF_EVEN)


def total_usd(found: Iterable[Line]) -> Decimal:
    return sum((line.amount_usd for line in found), Decimal(0))


def _microseconds(begins: datetime, ends: datetime) -> Decimal:
    return Decimal(max((ends - begins) // _MICROSECOND, 0))
