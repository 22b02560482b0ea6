"""Who has which bytes, and orphans: removed once for each word of the owner's, whatever else fails."""

import asyncio
from dataclasses import dataclass

import pytest

from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.errors import HostError, WorkloadError
from kaalia.model.volume import VolumeBackend, VolumeState, VolumeStatus
from kaalia.reconciler.disk import DiskService
from kaalia.reconciler.volumes import VolumesService
from kaalia.store import disk, volumes
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database, Transaction
from kaalia.units import GB
from kaalia.wire.local import DiskOrder
from tests.support.clock import FakeClock
from tests.support.fake_disk import FakeDisk
from tests.support.fake_volumes import FakeVolumes

ORPHAN, KNOWN = 7, 5


@dataclass
class Held:
    """The service over a disk with one volume of the books and one orphan."""

    store: Database
    clock: FakeClock
    service: DiskService
    volumes: FakeVolumes
    engine: FakeDisk

    async def order(self, kind: DiskOrder) -> None:
        await self.store.transaction(lambda tx: disk.order(tx, kind, self.clock.now()))

    async def orders(self) -> frozenset[DiskOrder]:
        return await self.store.read(disk.orders)

    async def sizes(self) -> dict[str, int]:
        ledger = await self.store.read(disk.get_ledger)
        return {one.name: one.size_bytes for one in ledger.entries} if ledger else {}


@pytest.fixture
async def held(store: Database, changes: Changes, clock: FakeClock) -> Held:
    hands, engine = FakeVolumes(), FakeDisk()
    hands.keys = {KNOWN: "k" * 32, ORPHAN: "o" * 32}
    keeper = VolumesService(store, changes, hands, clock)

    def agreed(tx: Transaction) -> None:
        volumes.upsert(tx, Volume(KNOWN, "k" * 32, 5 * GB, VolumeDesired.PRESENT))
        ready = VolumeStatus(KNOWN, VolumeState.READY, clock.now(), VolumeBackend.LOOP)
        volumes.put_status(tx, ready, clock.now(), "/volumes")

    await store.transaction(agreed)
    service = DiskService(store, changes, hands, engine.usage, engine.space, keeper, clock, look_s=0.01)
    return Held(store, clock, service, hands, engine)


@pytest.mark.parametrize(
    ("taken", "others"),
    [
        ({KNOWN: 2 * GB}, (300 - 2) * GB),
        ({KNOWN: 9 * GB}, (300 - 5) * GB),
        ({KNOWN: 2 * GB, ORPHAN: 7 * GB}, (300 - 2) * GB),
    ],
)
async def test_others_hold_what_no_renter_was_promised(held: Held, taken: dict[int, int], others: int) -> None:
    """A renter's share counts up to his size; images, orphans and the system are others."""
    held.engine.add_image("big", 100 * GB)
    held.engine.others_bytes, held.volumes.taken = 200 * GB, taken

    assert (await held.service.measure()).others_bytes == others


async def test_a_disk_that_fills_or_empties_is_counted_at_once(held: Held, changes: Changes) -> None:
    async def others(service: asyncio.Task[None], expected: int) -> None:
        async with asyncio.timeout(10):
            while (ledger := await held.store.read(disk.get_ledger)) is None or ledger.others_bytes != expected:
                assert not service.done()
                await asyncio.sleep(0.01)

    held.volumes.taken = {KNOWN: 0}
    service = asyncio.create_task(held.service.run())
    try:
        changes.ring(Topic.DISK)
        await others(service, 0)
        held.engine.others_bytes = 950 * GB
        await others(service, 950 * GB)
        held.engine.others_bytes = 20 * GB
        await others(service, 20 * GB)
        held.engine.others_bytes = 60 * GB  # less than a twentieth of the disk
        await asyncio.sleep(0.2)
        await others(service, 20 * GB)
    finally:
        service.cancel()


async def test_a_volume_that_does_not_tell_leaves_it_open_what_others_hold(held: Held) -> None:
    held.volumes.unreadable = {KNOWN}

    assert (await held.service.measure()).others_bytes is None


async def test_orphans_go_at_the_owners_word_and_nothing_else(held: Held) -> None:
    await held.service.obey()
    assert set(held.volumes.keys) == {KNOWN, ORPHAN}

    await held.order(DiskOrder.REMOVE_ORPHANS)
    await held.service.obey()

    assert set(held.volumes.keys) == {KNOWN}
    assert set(await held.sizes()) == {"V.5"}
    assert await held.orders() == frozenset()


async def test_one_word_removes_once_even_when_nothing_can_be_measured_after_it(held: Held) -> None:
    held.engine.is_down = True
    await held.order(DiskOrder.REMOVE_ORPHANS)
    with pytest.raises(WorkloadError):
        await held.service.obey()
    assert set(held.volumes.keys) == {KNOWN}

    held.volumes.keys[8] = "n" * 32  # as after the books were restored from a copy that is older than this volume
    with pytest.raises(WorkloadError):
        await held.service.obey()
    held.engine.is_down = False
    await held.service.obey()

    assert set(held.volumes.keys) == {KNOWN, 8}


async def test_a_word_that_cannot_be_followed_now_is_not_followed_later(held: Held) -> None:
    held.volumes.fails_to_open = HostError("command_timeout", "cannot finish `df` within 10 s")
    await held.order(DiskOrder.REMOVE_ORPHANS)
    with pytest.raises(HostError):
        await held.service.obey()

    held.volumes.fails_to_open = None
    await held.service.obey()

    assert set(held.volumes.keys) == {KNOWN, ORPHAN}


async def test_a_volume_that_cannot_be_read_does_not_hide_the_others(held: Held) -> None:
    held.volumes.unreadable = {KNOWN}
    held.engine.sizes = {51: 3 * GB}
    await held.order(DiskOrder.MEASURE)

    await held.service.obey()

    assert await held.sizes() == {"C.51": 3 * GB, "V.5": 0, "V.7": 0}
    assert await held.orders() == frozenset()


async def test_rows_are_in_order(held: Held) -> None:
    held.engine.sizes = {4: GB, 12: GB, 2: GB}
    for name in ("b", "a"):
        held.engine.add_image(name)

    await held.service.obey()

    assert list(await held.sizes()) == ["a:latest", "b:latest", "C.2", "C.4", "C.12", "V.5", "V.7"]
