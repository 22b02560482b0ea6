"""Edges from what is seen, sums, prices."""

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import metering
from kaalia.contracts.metering import Proof, Rate, Seen, Standing
from kaalia.errors import Problem
from kaalia.model.metering import Edge, Entry, Interval, Meter
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.units import GB
from tests.support.clock import START

S = WorkloadState
NOTHING = Proof()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def status(state: WorkloadState, as_of: float, started: float | None = None, **changes: object) -> WorkloadStatus:
    made = WorkloadStatus(51, 1, state, at(as_of), container_id="c", gpu_uuids=("GPU-0", "GPU-1"))
    made = replace(made, started_at=None if started is None else at(started))
    return replace(made, **changes)  # type: ignore[arg-type]


def run_edges(
    run: Standing, told: WorkloadStatus, seen: Seen | None = None, proof: Proof = NOTHING
) -> list[tuple[Edge, datetime]]:
    disk = Standing(Entry(51, 1, Meter.DISK, Edge.START, at(0), GB))
    found = metering.edges(run, disk, told, seen, GB, proof)
    return [(one.edge, one.at) for one in found if one.meter is Meter.RUN]


def running(since: float) -> Standing:
    return Standing(Entry(51, 1, Meter.RUN, Edge.START, at(since), 2))


def ran(since: float, until: float) -> Standing:
    start = Entry(51, 1, Meter.RUN, Edge.START, at(since), 2)
    return Standing(start, replace(start, edge=Edge.END, at=at(until)))


def test_a_run_begins_when_docker_says() -> None:
    assert run_edges(Standing(), status(S.RUNNING, 9, started=5)) == [(Edge.START, at(5))]


def test_a_run_that_is_known_adds_nothing() -> None:
    assert run_edges(running(5), status(S.RUNNING, 99, started=5)) == []


def test_a_silent_engine_ends_no_run() -> None:
    assert run_edges(running(5), status(S.UNKNOWN, 99, started=5)) == []
    assert run_edges(running(5), status(S.STOPPING, 99, started=5)) == []


@pytest.mark.parametrize("state", [S.STOPPED, S.EXITED, S.FAILED, S.STARTING])
def test_a_run_ends_when_docker_says(state: WorkloadState) -> None:
    seen = Seen(False, at(5), at(42))

    assert run_edges(running(5), status(state, 99, started=5), seen) == [(Edge.END, at(42))]


def test_a_restart_that_nobody_saw_ends_one_run_and_begins_another() -> None:
    seen = Seen(True, at(60), at(42))

    assert run_edges(running(5), status(S.RUNNING, 99, started=60), seen) == [(Edge.END, at(42)), (Edge.START, at(60))]


def test_a_short_run_that_nobody_saw_is_counted_once() -> None:
    seen = Seen(False, at(5), at(6))

    assert run_edges(Standing(), status(S.EXITED, 9, started=5), seen) == [(Edge.START, at(5)), (Edge.END, at(6))]
    assert run_edges(ran(5, 6), status(S.EXITED, 9, started=5), seen) == []


def test_a_removal_ends_the_run_before_it_is_done() -> None:
    assert run_edges(running(5), status(S.REMOVING, 50, started=5)) == [(Edge.END, at(50))]


def test_a_container_that_vanished_ran_until_it_was_seen_last() -> None:
    lost = status(S.FAILED, 500, started=5, container_id=None)

    assert run_edges(running(5), lost, None, Proof(at(300))) == [(Edge.END, at(300))]


def test_an_end_that_the_engine_noticed_after_a_boot_is_not_believed() -> None:
    """The machine crashed after 100, booted at 1000, and Docker marked the container as ended at 1010."""
    seen = Seen(False, at(5), at(1010))
    proof = Proof(at(100), at(1000))

    assert run_edges(running(5), status(S.EXITED, 1020, started=5), seen, proof) == [(Edge.END, at(100))]
    assert run_edges(Standing(), status(S.EXITED, 1020, started=5), seen, proof)[1] == (Edge.END, at(100))


def test_a_pause_of_the_owner_is_not_counted() -> None:
    paused = Seen(False, at(5), None)
    assert run_edges(running(5), status(S.STOPPED, 50, started=5), paused) == [(Edge.END, at(50))]

    assert run_edges(ran(5, 50), status(S.RUNNING, 70, started=5)) == [(Edge.START, at(70))]


def test_a_boot_cuts_what_was_open() -> None:
    starts = (
        Entry(51, 1, Meter.RUN, Edge.START, at(5), 2),
        Entry(51, 1, Meter.DISK, Edge.START, at(1), GB),
    )

    found = metering.boot_edges(starts, at(100), at(1000))

    assert [(one.meter, one.edge, one.at) for one in found] == [
        (Meter.RUN, Edge.END, at(100)),
        (Meter.DISK, Edge.END, at(100)),
        (Meter.DISK, Edge.START, at(1000)),
    ]


@pytest.mark.parametrize(
    ("state", "container", "is_kept"),
    [
        (S.WAITING, None, False),
        (S.REJECTED, None, False),
        (S.PULLING, None, True),
        (S.CREATING, None, True),
        (S.STARTING, "c", True),
        (S.RUNNING, "c", True),
        (S.STOPPED, "c", True),
        (S.STOPPED, None, False),
        (S.WAITING, "c", True),
        (S.EXITED, "c", True),
        (S.FAILED, "c", True),
        (S.FAILED, None, False),
        (S.ENDED, None, False),
    ],
)
def test_storage_is_counted_by_state(state: WorkloadState, container: str | None, is_kept: bool) -> None:
    told = status(state, 9, container_id=container)
    opened = metering.edges(Standing(), Standing(), told, None, GB, NOTHING)
    kept = Standing(Entry(51, 1, Meter.DISK, Edge.START, at(0), GB))
    ended = metering.edges(Standing(), kept, told, None, GB, NOTHING)

    assert [one.edge for one in opened if one.meter is Meter.DISK] == ([Edge.START] if is_kept else [])
    assert [one.edge for one in ended if one.meter is Meter.DISK] == ([] if is_kept else [Edge.END])


def test_sums_count_gpus_and_bytes() -> None:
    spent = (
        Interval(51, Meter.RUN, 2, at(0), at(10)),
        Interval(51, Meter.RUN, 2, at(20), None),
        Interval(51, Meter.DISK, 3 * GB, at(0), None),
    )

    found = metering.usage(spent, at(25))

    assert [found.run_s, found.gpu_s, found.disk_s, found.disk_byte_s] == [Decimal(n) for n in (15, 30, 25, 75 * GB)]


def test_each_price_has_its_line() -> None:
    rates = (Rate(at(0), Decimal("0.36"), Decimal(73)), Rate(at(3600), Decimal("0.72"), Decimal(73)))
    run = Interval(51, Meter.RUN, 1, at(0), at(7200))
    disk = Interval(51, Meter.DISK, 10 * GB, at(0), at(3600))

    assert [line.amount_usd for line in metering.lines(run, rates, at(0), at(9999))] == [
        Decimal("0.36"),
        Decimal("0.72"),
    ]
    assert metering.total_usd(metering.lines(disk, rates, at(0), at(9999))) == Decimal(1)
    assert metering.total_usd(metering.lines(run, rates, at(1800), at(5400))) == Decimal("0.54")


def test_a_line_is_rounded_half_to_even_at_a_billionth() -> None:
    half = Interval(51, Meter.RUN, 1, at(0), at(0.0018))
    [line] = metering.lines(half, (Rate(at(0), Decimal("0.001"), Decimal(0)),), at(0), at(1))

    assert line.amount_usd == Decimal("0E-9")


def test_an_end_of_nothing_and_a_start_that_was_known_change_nothing() -> None:
    entry = Entry(51, 1, Meter.RUN, Edge.START, at(5), 1)
    known = Interval(51, Meter.RUN, 1, at(5), at(9))

    assert metering.follow(None, replace(entry, edge=Edge.END), at(0)) == ()
    assert metering.follow(known, entry, at(0)) == ()
    assert metering.follow(known, replace(entry, edge=Edge.END), at(0)) == ()


def test_a_machine_that_lost_its_journal_owes_no_silent_time() -> None:
    known = Interval(51, Meter.RUN, 1, at(5))

    found = metering.follow(known, Entry(51, 1, Meter.RUN, Edge.START, at(500), 1), at(100))

    assert [(one.started_at, one.ended_at) for one in found] == [(at(5), at(100)), (at(500), None)]


@given(
    times=st.lists(st.integers(0, 10**6), max_size=30),
    kinds=st.lists(st.sampled_from(Edge), min_size=30, max_size=30),
)
def test_intervals_that_follow_never_overlap(times: list[int], kinds: list[Edge]) -> None:
    """Whatever a machine sends, in whatever order: no moment is counted twice."""
    taken: list[Interval] = []
    for second, kind in zip(times, kinds, strict=False):
        entry = Entry(51, 1, Meter.RUN, kind, at(second), 1)
        for one in metering.follow(taken[-1] if taken else None, entry, at(second / 2)):
            if taken and taken[-1].started_at == one.started_at and taken[-1].ended_at is None:
                taken[-1] = one
            else:
                taken.append(one)
    for before, after in itertools.pairwise(taken):
        assert before.ended_at is not None
        assert before.started_at <= before.ended_at <= after.started_at


@given(cuts=st.lists(st.integers(1, 86_400_000), max_size=6), price=st.decimals("0.001", "100", places=4))
def test_days_add_up_to_the_whole(cuts: list[int], price: Decimal) -> None:
    """A sum over parts is the sum over all, to the rounding of each line."""
    rates = (Rate(at(0), price, Decimal(0)),)
    whole = Interval(51, Meter.RUN, 1, at(0), at(86_400))
    edges = [at(0), *(at(one / 1000) for one in sorted(cuts)), at(86_400)]
    parts = [metering.lines(whole, rates, since, until) for since, until in itertools.pairwise(edges)]

    total = sum((metering.total_usd(part) for part in parts), Decimal(0))

    assert abs(total - price * 24) <= metering.NANO_USD * len(parts)


LOST = Problem("volume_missing", "cannot find volume 5")


@pytest.mark.parametrize(
    ("state", "problem", "opens", "ends"),
    [
        (VolumeState.CREATING, None, False, True),
        (VolumeState.READY, None, True, False),
        (VolumeState.READY, LOST, False, True),
        (VolumeState.FAILED, LOST, False, True),
        (VolumeState.REMOVING, None, False, False),
        (VolumeState.REMOVING, LOST, False, False),
        (VolumeState.ENDED, None, False, True),
    ],
)
def test_a_volume_is_counted_while_its_data_are_there(
    state: VolumeState, problem: Problem | None, opens: bool, ends: bool
) -> None:
    told = VolumeStatus(5, state, at(10), problem=problem)
    start = Entry(5, 1, Meter.VOLUME, Edge.START, at(0), 3 * GB, "ready")

    opened = metering.volume_edges(Standing(), told, 3 * GB)
    ended = metering.volume_edges(Standing(start), told, 3 * GB)

    assert opened == ((Entry(5, 1, Meter.VOLUME, Edge.START, at(10), 3 * GB, "ready"),) if opens else ())
    reason = LOST.code if problem else state
    assert ended == ((replace(start, edge=Edge.END, at=at(10), reason=reason),) if ends else ())


def test_a_volume_that_came_back_is_counted_from_then_on_even_by_a_clock_that_was_set_back() -> None:
    start = Entry(5, 1, Meter.VOLUME, Edge.START, at(0), GB)
    gone = Standing(start, replace(start, edge=Edge.END, at=at(100)))

    [again] = metering.volume_edges(gone, VolumeStatus(5, VolumeState.READY, at(50)), GB)

    assert (again.edge, again.at) == (Edge.START, at(100))


def test_a_boot_counts_no_volume_while_the_machine_was_down() -> None:
    start = Entry(5, 1, Meter.VOLUME, Edge.START, at(0), GB)

    found = metering.boot_edges([start], at(100), at(1000))

    assert [(one.edge, one.at) for one in found] == [(Edge.END, at(100)), (Edge.START, at(1000))]


def test_a_volume_costs_its_price_by_gb_and_month() -> None:
    month = timedelta(hours=730).total_seconds()
    kept = Interval(5, Meter.VOLUME, 20 * GB, at(0), at(month))

    [line] = metering.lines(kept, (Rate(at(0), Decimal(9), Decimal("0.2")),), at(0), at(2 * month))

    assert line.amount_usd == Decimal(4)
    assert metering.usage([kept], at(2 * month)).disk_byte_s == 20 * GB * Decimal(month)
