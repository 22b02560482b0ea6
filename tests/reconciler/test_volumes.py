"""What the volumes' service counts, and whom it lets mount."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from kaalia.contracts import metering
from kaalia.contracts.contract import Contract
from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.errors import WorkloadError
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.model.volume import VolumeState
from kaalia.model.workload import VolumeMount, WorkloadState
from kaalia.reconciler.ledger import Boot, Ledger
from kaalia.reconciler.volumes import VolumesService
from kaalia.runtime.base import BindMount
from kaalia.store import contracts, journal, machine, outbox, volumes, workloads
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from kaalia.units import GB
from kaalia.wire import document
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import FakeClock
from tests.support.fake_volumes import FakeVolumes

VOLUME = Volume(51, "k" * 32, 5 * GB, VolumeDesired.PRESENT)
"""With the number of a contract: they are counted apart."""


@pytest.fixture
def hands() -> FakeVolumes:
    return FakeVolumes()


@pytest.fixture
async def service(store: Database, changes: Changes, clock: FakeClock, hands: FakeVolumes) -> VolumesService:
    await agree(store, VOLUME)
    return VolumesService(store, changes, hands, clock)


async def agree(store: Database, volume: Volume) -> None:
    await store.transaction(lambda tx: volumes.upsert(tx, volume))


def mounting(volume_id: int) -> Contract:
    made = build_contract(7)
    return replace(made, spec=replace(made.spec, volumes=(VolumeMount(volume_id, "/data"),)))


async def counted(store: Database) -> list[tuple[datetime, datetime | None]]:
    entries = await store.read(lambda tx: journal.of_volume(tx, 51))
    assert all((one.meter, one.amount) == (Meter.VOLUME, 5 * GB) for one in entries)
    return [(one.started_at, one.ended_at) for one in metering.intervals(entries)]


async def test_a_volume_is_counted_from_ready_to_gone(
    store: Database, clock: FakeClock, service: VolumesService, hands: FakeVolumes
) -> None:
    began = clock.now()
    await service.reconcile()
    clock.advance(3600)
    await service.reconcile()
    assert await counted(store) == [(began, None)]

    await agree(store, replace(VOLUME, desired=VolumeDesired.ENDED))
    hands.mounted.add(51)
    await service.reconcile()
    stored = await store.read(lambda tx: volumes.get(tx, 51))
    assert stored is not None
    assert stored.status is not None
    assert (stored.status.state, stored.status.problem and stored.status.problem.code) == ("removing", "volume_in_use")
    clock.advance(60)
    hands.mounted.clear()
    await service.reconcile()

    assert await counted(store) == [(began, clock.now())]
    assert hands.keys == {}


async def test_each_line_is_told_together_with_the_status(
    store: Database, clock: FakeClock, service: VolumesService
) -> None:
    await service.reconcile()
    await agree(store, replace(VOLUME, desired=VolumeDesired.ENDED))
    await service.reconcile()

    rows = await store.read(lambda tx: outbox.pending(tx, 100))
    told = [document.decode(Entry, row.body) for row in rows if row.kind == "meter"]
    assert told == list(await store.read(lambda tx: journal.of_volume(tx, 51)))
    assert [entry.edge for entry in told] == [Edge.START, Edge.END]


async def test_data_that_are_lost_are_not_counted_until_they_are_back(
    store: Database, clock: FakeClock, service: VolumesService, hands: FakeVolumes
) -> None:
    began = clock.now()
    await service.reconcile()
    clock.advance(100)
    hands.keys.clear()
    await service.reconcile()
    lost = clock.now()
    clock.advance(100)
    await service.reconcile()
    hands.keys[51] = VOLUME.key
    await service.reconcile()

    assert await counted(store) == [(began, lost), (clock.now(), None)]


async def test_what_was_never_made_is_never_counted(
    store: Database, service: VolumesService, hands: FakeVolumes
) -> None:
    hands.fails_with = WorkloadError("volume_taken", "cannot make volume 51")
    await service.reconcile()

    assert await counted(store) == []
    stored = await store.read(lambda tx: volumes.get(tx, 51))
    assert stored is not None
    assert stored.status is not None
    assert stored.status.state is VolumeState.FAILED


@pytest.mark.parametrize("sources", [{51: 51}, {51: 52, 52: 51}], ids=["of itself", "in a circle"])
async def test_a_copy_that_waits_for_itself_is_refused_and_holds_nobody_up(
    store: Database, service: VolumesService, hands: FakeVolumes, sources: dict[int, int]
) -> None:
    for volume_id, source in sources.items():
        await agree(store, replace(VOLUME, volume_id=volume_id, copy_of=source))
    await agree(store, replace(VOLUME, volume_id=60))

    async with asyncio.timeout(30):
        await service.reconcile()

    states = {one.volume.volume_id: one.status for one in await store.read(volumes.all_volumes)}
    assert states[51] is not None
    assert states[51].problem is not None
    assert (states[51].state, states[51].problem.code) == (VolumeState.FAILED, "volume_unknown")
    assert set(hands.keys) == {60}


async def test_a_copy_is_made_after_its_source(store: Database, service: VolumesService, hands: FakeVolumes) -> None:
    await agree(store, replace(VOLUME, volume_id=60, copy_of=51))

    await service.mounts(mounting(60))

    assert list(hands.keys) == [51, 60]


@pytest.mark.parametrize("state", [None, *WorkloadState])
async def test_a_volume_gets_what_instances_were_not_promised(
    store: Database, clock: FakeClock, service: VolumesService, hands: FakeVolumes, state: WorkloadState | None
) -> None:
    report = build_report(clock.now())
    assert report.disk is not None
    tight = replace(report, disk=replace(report.disk, total_bytes=20 * GB))

    def rented(tx: Transaction) -> None:
        machine.put_report(tx, tight)
        contracts.upsert(tx, build_contract(7), clock.now())  # of 16 GiB
        if state is not None:
            workloads.put(tx, build_status(7, state=state))

    await store.transaction(rented)
    await service.reconcile()

    has_disk = state not in (None, WorkloadState.WAITING, WorkloadState.REJECTED, WorkloadState.ENDED)
    assert (hands.keys == {}) is has_disk


async def test_a_contract_that_is_forgotten_ends_no_volume_of_its_number(
    store: Database, clock: FakeClock, service: VolumesService
) -> None:
    await service.reconcile()
    began = clock.now()

    await Ledger(store, clock).forget([51])

    assert await counted(store) == [(began, None)]


async def test_a_boot_costs_nothing_while_the_machine_was_down(
    store: Database, clock: FakeClock, service: VolumesService
) -> None:
    began = clock.now()
    await service.reconcile()
    clock.advance(60)
    seen = clock.now()
    await Ledger(store, clock, Boot("one")).prove_life()
    clock.advance(5000)
    booted = clock.now()
    await Ledger(store, clock, Boot("two", booted)).prove_life()

    assert await counted(store) == [(began, seen), (booted, None)]


async def test_an_expired_volume_is_mounted_for_who_had_it_before_and_nobody_new(
    store: Database, clock: FakeClock, service: VolumesService
) -> None:
    old = mounting(51)
    await agree(store, replace(VOLUME, end_at=old.start_at + timedelta(hours=1)))
    clock.advance(7200)

    assert await service.mounts(old) == (BindMount(51, "/volumes/V.51", "/data"),)
    with pytest.raises(WorkloadError) as refused:
        await service.mounts(replace(old, start_at=old.start_at + timedelta(hours=1)))

    assert refused.value.code == "volume_expired"
