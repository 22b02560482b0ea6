"""Counts who has which bytes of the disk, and removes orphaned volumes when the owner says so; never by itself.

An orphan is what lies in kaalia's own folder without a row in the books. Nothing outside of that folder is touched,
and a volume that a container has mounted stays.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime

from kaalia.clock import Clock
from kaalia.errors import HostError, WorkloadError
from kaalia.model.volume import VolumeState
from kaalia.reconciler.disk_watch import Space
from kaalia.reconciler.volumes import VolumesService
from kaalia.runtime.base import EngineUsage, Volumes
from kaalia.service import run_forever
from kaalia.store import changes as bells
from kaalia.store import contracts, disk, images, machine, volumes
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database, Transaction
from kaalia.store.volumes import StoredVolume
from kaalia.wire.local import ByteOwner, DiskEntry, DiskLedger, DiskOrder

log = logging.getLogger(__name__)

FIRST_S = 20.0
"""After a start the engine first has to answer for what runs; an order is obeyed at once."""
MEASURE_S = 600.0
"""The engine walks every container's files for its answer."""
LOOK_S = 30.0
MOVED_SHARE = 0.05
"""Of the disk. By so much the count is off when its free space moved so far since: whoever emptied a full disk can rent
it out at once, and what is promised of one that was filled is no longer there."""


class DiskService:
    """Measures soon after the start, every ten minutes, when the disk fills or empties, and when asked."""

    name = "disk"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        hands: Volumes,
        usage: Callable[[], Awaitable[EngineUsage]],
        space: Callable[[], Awaitable[Space]],
        keeper: VolumesService,
        clock: Clock,
        look_s: float = LOOK_S,
    ) -> None:
        self._database = database
        self._hands = hands
        self._usage = usage
        self._space = space
        self._keeper = keeper
        self._clock = clock
        self._look_s = look_s
        self._counted_free_bytes: int | None = None
        self._bell = changes.subscribe(Topic.DISK)

    async def run(self) -> None:
        await bells.wait(self._bell, FIRST_S)
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        try:
            await self.obey()
        except (WorkloadError, HostError) as error:
            log.warning("disk: nothing was measured: %s", error)
        again_s = self._clock.monotonic_s() + MEASURE_S
        while (left_s := again_s - self._clock.monotonic_s()) > 0:
            if await bells.wait(self._bell, min(self._look_s, left_s)) or await self._has_moved():
                break

    async def _has_moved(self) -> bool:
        try:
            space = await self._space()
        except (WorkloadError, HostError):
            return False
        counted = self._counted_free_bytes
        return counted is not None and abs(space.free_bytes - counted) > MOVED_SHARE * space.total_bytes

    async def obey(self) -> None:
        """Do what was asked, then measure. Raises WorkloadError or HostError."""
        asked = await self._database.read(disk.orders)
        if DiskOrder.REMOVE_ORPHANS in asked:
            await self._remove_orphans()
        ledger = await self.measure()
        self._counted_free_bytes = ledger.free_bytes

        def work(tx: Transaction) -> None:
            disk.put_ledger(tx, ledger)
            if DiskOrder.MEASURE in asked:
                disk.close_order(tx, DiskOrder.MEASURE)

        await self._database.transaction(work)

    async def measure(self) -> DiskLedger:
        """One count of everything. Raises WorkloadError or HostError."""
        backend = await self._hands.open()
        usage, space = await self._usage(), await self._space()
        stored, agreed, report = await self._database.read(
            lambda tx: (volumes.all_volumes(tx), contracts.all_contracts(tx), machine.get_report(tx))
        )
        promised = {one.contract.contract_id: one.contract.spec.disk_bytes for one in agreed}
        last_use = {one.image_id: one.used_at for one in await self._database.read(images.all_pulled)}
        entries = [*_engine_entries(usage, promised, last_use)]
        known = {one.volume.volume_id: one for one in stored}
        for volume_id in sorted({*known, *await self._hands.found()}):
            is_whole = _is_whole(known.get(volume_id))
            used = await self._told(self._hands.used_bytes, volume_id) if is_whole else None
            entries.append(_volume_entry(volume_id, known.get(volume_id), used))
        taken = [await self._held_bytes(one) for one in stored]
        taken += [min(size, promised.get(contract_id, 0)) for contract_id, size in usage.instances]
        used_bytes = space.total_bytes - space.free_bytes
        return DiskLedger(
            measured_at=self._clock.now(),
            total_bytes=space.total_bytes,
            free_bytes=space.free_bytes,
            volume_backend=backend,
            volume_folder=self._hands.place,
            enforces_instance_size=report.engine.enforces_disk_size if report and report.engine else None,
            entries=tuple(entries),
            others_bytes=None if None in taken else max(0, used_bytes - sum(size for size in taken if size)),
        )

    async def _held_bytes(self, stored: StoredVolume) -> int | None:
        """What a volume takes of the disk, of its size at most. None: nobody knows."""
        taken = await self._told(self._hands.taken_bytes, stored.volume.volume_id)
        if taken is None:
            return None if _is_whole(stored) else 0
        return min(taken, stored.volume.size_bytes)

    async def _told(self, ask: Callable[[int], Awaitable[int | None]], volume_id: int) -> int | None:
        """None: it does not tell, as one that is missing. The others are counted for all that."""
        try:
            return await ask(volume_id)
        except HostError as error:
            log.warning("disk: volume %d is not measured: %s", volume_id, error)
            return None

    async def _remove_orphans(self) -> None:
        """What is an orphan now, and once: the order is closed before anything goes, whatever comes of it.

        An order that outlived its removal would take what becomes an orphan later, without a word of the owner.
        """

        def begin(tx: Transaction) -> set[int]:
            disk.close_order(tx, DiskOrder.REMOVE_ORPHANS)
            return {one.volume.volume_id for one in volumes.all_volumes(tx)}

        known = await self._database.transaction(begin)
        await self._hands.open()
        for volume_id in sorted(set(await self._hands.found()) - known):
            try:
                await self._keeper.remove_orphan(volume_id)
                log.info("disk: the orphaned volume %d was removed at the owner's word", volume_id)
            except (WorkloadError, HostError) as error:
                log.warning("disk: orphaned volume %d stays: %s", volume_id, error)
            await asyncio.sleep(0)


def _engine_entries(usage: EngineUsage, promised: dict[int, int], last_use: dict[str, datetime]) -> Iterator[DiskEntry]:
    for image in sorted(usage.images, key=lambda one: one.name):
        yield DiskEntry(ByteOwner.IMAGE, image.name, image.size_bytes, used_at=last_use.get(image.image_id))
    if usage.cache_bytes:
        yield DiskEntry(ByteOwner.CACHE, "layers of builds", usage.cache_bytes)
    for contract_id, size in sorted(usage.instances):
        owner = ByteOwner.INSTANCE if contract_id in promised else ByteOwner.ORPHAN
        yield DiskEntry(owner, f"C.{contract_id}", size, promised.get(contract_id))
    if usage.foreign_bytes:
        yield DiskEntry(ByteOwner.FOREIGN, "containers of others", usage.foreign_bytes)


def _is_whole(stored: StoredVolume | None) -> bool:
    return stored is None or (stored.status is not None and stored.status.state is VolumeState.READY)


def _volume_entry(volume_id: int, stored: StoredVolume | None, used_bytes: int | None) -> DiskEntry:
    owner = ByteOwner.ORPHAN if stored is None else ByteOwner.VOLUME
    return DiskEntry(owner, f"V.{volume_id}", used_bytes or 0, stored.volume.size_bytes if stored else None)
