"""Makes volumes that were agreed, mounts them for instances, removes them after their tombstone; nobody else does.

The status row is the intent: `creating` and `removing` are durable before anything is done, and both may be repeated.
Data that should be here and are not are told as missing; they are never made anew, empty, in their place.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from kaalia.clock import Clock
from kaalia.contracts import metering
from kaalia.contracts import volume as rules
from kaalia.contracts.contract import Contract, Desired
from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.contracts.wish import Held
from kaalia.errors import ContractError, HostError, KaaliaError, Problem, WorkloadError
from kaalia.model.metering import Meter
from kaalia.model.volume import VolumeBackend, VolumeState, VolumeStatus
from kaalia.model.workload import WorkloadState
from kaalia.reconciler import crash
from kaalia.runtime.base import BindMount, Volumes
from kaalia.service import run_forever
from kaalia.store import amounts, contracts, journal, machine, volumes, workloads
from kaalia.store import changes as bells
from kaalia.store.amounts import AmountKind
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database, Transaction
from kaalia.store.volumes import StoredVolume

log = logging.getLogger(__name__)

RESYNC_S = 60.0
"""How often every volume is looked at, and what did not work is tried again."""
_OVER = (WorkloadState.ENDED, WorkloadState.REJECTED)


class VolumesService:
    """The volumes of this machine. `mounts` is what launches ask; the loop does the rest."""

    name = "volumes"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        hands: Volumes,
        clock: Clock,
        *,
        resync_s: float = RESYNC_S,
        checkpoint: Callable[[str], None] = crash.at,
    ) -> None:
        self._database = database
        self._hands = hands
        self._clock = clock
        self._resync_s = resync_s
        self._checkpoint = checkpoint
        self._bell = changes.subscribe(Topic.CONTRACTS, Topic.WORKLOADS)
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        await self.reconcile()
        await bells.wait(self._bell, self._resync_s)

    async def mounts(self, contract: Contract) -> tuple[BindMount, ...]:
        """Where a contract's volumes are, made and mounted. Raises WorkloadError or HostError."""
        return tuple(
            [
                BindMount(mount.volume_id, await self._mounted(contract, mount.volume_id), mount.path)
                for mount in contract.spec.volumes
            ]
        )

    async def _mounted(self, contract: Contract, volume_id: int) -> str:
        stored = await self._database.read(lambda tx: volumes.get(tx, volume_id))
        if stored is not None:
            try:
                rules.check_mount(stored.volume, contract.start_at)
            except ContractError as error:
                raise WorkloadError(error.code, error.problem.message, remedy=error.problem.remedy) from error
        return await self._ensure(volume_id)

    async def remove_orphan(self, volume_id: int) -> None:
        """Remove data without a row in the books, at the owner's word. Raises WorkloadError or HostError."""
        async with self._locks[volume_id]:
            if await self._database.read(lambda tx: volumes.get(tx, volume_id)) is None:
                await self._hands.remove(volume_id, None)

    async def reconcile(self) -> None:
        """One look at all volumes. Errors are told and logged; the next turn tries again."""
        for stored in await self._database.read(volumes.all_volumes):
            try:
                if stored.volume.desired is VolumeDesired.ENDED:
                    await self._end(stored.volume.volume_id)
                elif stored.status is None or stored.status.state is not VolumeState.FAILED:
                    await self._ensure(stored.volume.volume_id)
            except (WorkloadError, HostError) as error:
                log.warning("volumes: volume %d: %s", stored.volume.volume_id, error)

    async def _ensure(self, volume_id: int) -> str:
        async with self._locks[volume_id]:
            stored = await self._database.read(lambda tx: volumes.get(tx, volume_id))
            if stored is None or stored.volume.desired is VolumeDesired.ENDED:
                message = f"cannot mount volume {volume_id}: it was deleted, or the marketplace never told of it"
                raise WorkloadError("volume_unknown", message, remedy="rent again, with a volume that exists")
            state = stored.status.state if stored.status else None
            if state is VolumeState.FAILED and stored.status and stored.status.problem:
                why = stored.status.problem
                raise WorkloadError(why.code, why.message, remedy=why.remedy, evidence=why.evidence)
            backend = await self._hands.open()
            if state in (None, VolumeState.CREATING):
                await self._make(stored, backend)
            return await self._ready(stored)

    async def _make(self, stored: StoredVolume, backend: VolumeBackend) -> None:
        volume = stored.volume
        creating = self._status(stored, VolumeState.CREATING, backend)
        try:
            _check_source(volume)
            await self._database.transaction(lambda tx: self._admit(tx, stored, creating), Topic.OUTBOX)
            self._checkpoint("volume.make.intended")
            if volume.copy_of is not None:
                await self._ensure(volume.copy_of)
            await self._hands.make(volume)
        except WorkloadError as error:
            if error.code != "engine_unavailable":
                await self._put(replace(creating, state=VolumeState.FAILED, problem=error.problem))
            raise
        self._checkpoint("volume.make.done")
        await self._put(replace(creating, state=VolumeState.READY, as_of=self._clock.now()), self._hands.place)
        self._checkpoint("volume.make.recorded")
        log.info("volumes: volume %d of %d bytes is ready (%s)", volume.volume_id, volume.size_bytes, backend)

    def _admit(self, tx: Transaction, stored: StoredVolume, creating: VolumeStatus) -> None:
        """The intent, when the disk can keep the promise. Raises WorkloadError `disk_exhausted`."""
        report, volume = machine.get_report(tx), stored.volume
        if report is not None and report.disk is not None and stored.status is None:
            planned = volumes.held_bytes(tx) + _instances_bytes(tx)
            # The ledger also knows of containers whose contract is forgotten.
            left = report.disk.total_bytes - max(planned, amounts.total(tx, AmountKind.DISK))
            if volume.size_bytes > left:
                raise WorkloadError(
                    "disk_exhausted",
                    f"cannot make volume {volume.volume_id} of {volume.size_bytes} bytes: "
                    f"{max(left, 0)} of the disk are not promised yet",
                    remedy="rent a smaller volume, or on another machine",
                )
        self._tell(tx, creating)

    async def _ready(self, stored: StoredVolume) -> str:
        """The checked folder. What is missing is told once, and so is what came back."""
        known = await self._database.read(lambda tx: volumes.get(tx, stored.volume.volume_id)) or stored
        try:
            path = await self._hands.ready(stored.volume)
        except (WorkloadError, HostError) as error:
            await self._tell_problem(known, error.problem)
            raise
        await self._tell_problem(known, None)
        return path

    async def _tell_problem(self, stored: StoredVolume, problem: Problem | None) -> None:
        status = stored.status
        known = status.problem.code if status and status.problem else None
        if status is not None and known != (problem.code if problem else None):
            await self._put(replace(status, problem=problem, as_of=self._clock.now()))

    async def _end(self, volume_id: int) -> None:
        """Remove the data, once no instance can have them mounted."""
        async with self._locks[volume_id]:
            stored = await self._database.read(lambda tx: volumes.get(tx, volume_id))
            if stored is None or (stored.status and stored.status.state is VolumeState.ENDED):
                return
            if users := await self._database.read(lambda tx: _users(tx, volume_id)):
                log.info("volumes: volume %d waits for the end of %s", volume_id, users)
                return
            await self._hands.open()
            if stored.status is not None and stored.status.state is not VolumeState.REMOVING:
                removing = replace(stored.status, state=VolumeState.REMOVING, as_of=self._clock.now())
                await self._put(removing)
                stored = replace(stored, status=removing)
            self._checkpoint("volume.remove.intended")
            await self._remove(stored)
            self._checkpoint("volume.remove.done")
            await self._put(VolumeStatus(volume_id, VolumeState.ENDED, self._clock.now()))
            self._checkpoint("volume.remove.recorded")
            log.info("volumes: volume %d is gone", volume_id)

    async def _remove(self, stored: StoredVolume) -> None:
        try:
            await self._hands.remove(stored.volume.volume_id, stored.volume.key)
        except KaaliaError as error:
            await self._tell_problem(stored, error.problem)
            raise

    async def _put(self, status: VolumeStatus, place: str | None = None) -> None:
        await self._database.transaction(lambda tx: self._tell(tx, status, place), Topic.OUTBOX, Topic.WORKLOADS)

    def _tell(self, tx: Transaction, status: VolumeStatus, place: str | None = None) -> None:
        """The status, and what it adds to the journal."""
        now, stored = self._clock.now(), volumes.get(tx, status.volume_id)
        kept = journal.standing(tx, status.volume_id, Meter.VOLUME)
        size_bytes = stored.volume.size_bytes if stored else 0
        journal.count(tx, metering.volume_edges(kept, status, size_bytes), now)
        volumes.put_status(tx, status, now, place)

    def _status(self, stored: StoredVolume, state: VolumeState, backend: VolumeBackend) -> VolumeStatus:
        return VolumeStatus(stored.volume.volume_id, state, self._clock.now(), backend)


def _check_source(volume: Volume) -> None:
    """A copy is agreed after its source, so it has the higher number. One that has not, as in a circle of copies,
    would be waited for by itself for ever. Raises WorkloadError `volume_unknown`."""
    if volume.copy_of is not None and volume.copy_of >= volume.volume_id:
        raise WorkloadError(
            "volume_unknown",
            f"cannot make volume {volume.volume_id} as a copy of volume {volume.copy_of}: "
            "a source is older than its copy",
            remedy="rent again, with a volume that exists",
        )


def _instances_bytes(tx: Transaction) -> int:
    """Disk promised to contracts, by the books; nobody is asked which containers exist."""
    rows = workloads.all_workloads(tx)
    agreed = [stored.contract for stored in contracts.all_contracts(tx)]
    return sum(one.spec.disk_bytes for one in agreed if Held(one, rows.get(one.contract_id)).has_disk)


def _users(tx: Transaction, volume_id: int) -> list[int]:
    """Contracts whose container may still mount the volume."""
    states = {number: row.state for number, row in workloads.all_workloads(tx).items()}
    return [
        stored.contract.contract_id
        for stored in contracts.all_contracts(tx)
        if any(mount.volume_id == volume_id for mount in stored.contract.spec.volumes)
        and states.get(stored.contract.contract_id) not in _OVER
        and not (stored.contract.desired is Desired.ENDED and stored.contract.contract_id not in states)
    ]
