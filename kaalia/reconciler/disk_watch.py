"""Watches that what was promised of the disk stays true, and tells what does not: the conditions of source `disk`.

- Limits that the file system enforces: looked at, and mended, all the time (`runtime.base.DiskLimits`).
- Sizes that nothing enforces, or not for now: measured. The reconciler warns and stops by the rows written here.
- Room: below the low-water mark, images that kaalia pulled and nobody uses go, the longest unused first.

Touches no container. What cannot be measured is left as it is (I7).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kaalia.clock import Clock
from kaalia.contracts.disk import ENGINE_FILE_BYTES, HeldImage, Overrun, evictable, low_water_bytes
from kaalia.errors import HostError, Problem, WorkloadError
from kaalia.model.health import Condition, Severity
from kaalia.model.machine import Engine
from kaalia.model.workload import WorkloadState
from kaalia.pulse import PULSE
from kaalia.reconciler.image_use import ImageUse, plain_name
from kaalia.runtime.base import DiskLimits, EngineDisk, EngineImage, LimitsUnsure
from kaalia.service import run_forever
from kaalia.store import conditions, contracts, disk, images, machine, workloads
from kaalia.store.changes import Topic
from kaalia.store.database import Database, Transaction
from kaalia.units import format_bytes

log = logging.getLogger(__name__)

SOURCE = "disk"
LOOK_S = 30.0
MEND_S = 10.0
"""For a rescan of counts: one that takes longer is told, and goes on."""
MEASURE_MIN_S = 60.0
MEASURE_MAX_S = 600.0
MEASURE_SHARE = 20
"""Measuring walks all files that tenants wrote: it takes a twentieth of the time at most."""
_OVER = (WorkloadState.ENDED, WorkloadState.REJECTED)


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system that holds the engine's images."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Hands:
    """`space`: as it is now; `low_water_bytes`: the owner's word, None: by the size of the disk."""

    limits: DiskLimits
    engine: EngineDisk
    space: Callable[[], Awaitable[Space]]
    images: ImageUse
    low_water_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Rented:
    """The container that holds a contract's data, and the disk that was rented with it."""

    container_id: str
    generation: int
    disk_bytes: int


class DiskWatch:
    """One look every half a minute."""

    name = "disk watch"

    def __init__(self, database: Database, hands: Hands, clock: Clock, look_s: float = LOOK_S) -> None:
        self._database = database
        self._hands = hands
        self._clock = clock
        self._look_s = look_s
        self._measure_at_s = 0.0
        self._low: Condition | None = None
        """As the last look that came to an end found it."""

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        with PULSE.turn(self.name):
            await self.look()
        await asyncio.sleep(self._look_s)

    async def look(self) -> None:
        """One look at everything. What the engine or a program does not tell now is told later."""
        unsure = await self._hands.limits.check(MEND_S)
        try:
            report = await self._database.read(machine.get_report)
            engine = report.engine if report else None
            if engine is not None:
                await self._watch_engine_files(engine.data_root)
            await self._watch_sizes(engine, unsure)
        except (WorkloadError, HostError) as error:
            log.warning("disk: sizes are not measured: %s", error)
        try:
            self._low = await self._keep_room()
        except (WorkloadError, HostError) as error:
            log.warning("disk: no room is made: %s", error)
        now, low = self._clock.now(), [self._low] if self._low else []

        def work(tx: Transaction) -> None:
            found = [*map(_unsure, unsure), *map(_over, disk.overruns(tx).values()), *low]
            conditions.replace(tx, SOURCE, found, now)

        await self._database.transaction(work)

    # Sizes

    async def _watch_sizes(self, engine: Engine | None, unsure: tuple[LimitsUnsure, ...]) -> None:
        if engine is None or self._clock.monotonic_s() < self._measure_at_s:
            return
        if engine.enforces_disk_size and not any(engine.data_root in one.folders for one in unsure):
            await self._put(())
            return
        began_s = self._clock.monotonic_s()
        try:
            await self._put(await self.overruns())
        finally:  # a walk that ended with an error has cost as much
            now_s = self._clock.monotonic_s()
            pause_s = min(max((now_s - began_s) * MEASURE_SHARE, MEASURE_MIN_S), MEASURE_MAX_S)
            self._measure_at_s = now_s + pause_s

    async def overruns(self) -> tuple[Overrun, ...]:
        """Who holds more than was rented, by measuring. Raises WorkloadError.

        That takes minutes: of a container that was made anew meanwhile nothing is known.
        """
        before, known = await self._database.read(lambda tx: (_rented(tx), disk.overruns(tx)))
        written = await self._hands.engine.written()
        found = []
        for contract_id, rented in before.items():
            size = written.get(contract_id, 0)
            if size > rented.disk_bytes and (over := await self._overrun(contract_id, rented, size)) is not None:
                found.append(_surer(over, known.get(contract_id)))
        after = await self._database.read(_rented)
        return tuple(one for one in found if before[one.contract_id] == after.get(one.contract_id))

    async def _overrun(self, contract_id: int, rented: _Rented, written_bytes: int) -> Overrun | None:
        allocated = await self._hands.engine.allocated(contract_id, written_bytes)
        if allocated is None:
            return Overrun(contract_id, rented.generation, written_bytes, rented.disk_bytes, counts_holes=True)
        if allocated <= rented.disk_bytes:
            return None
        return Overrun(contract_id, rented.generation, allocated, rented.disk_bytes)

    async def _watch_engine_files(self, data_root: str) -> None:
        """Also where sizes are enforced: no quota is on these files. Raises WorkloadError."""
        before = await self._database.read(_rented)
        grown = await self._hands.engine.empty_grown(data_root, ENGINE_FILE_BYTES)
        if not grown:
            return
        after, known = await self._database.read(lambda tx: (_rented(tx), disk.overruns(tx)))
        for contract_id, file in grown.items():
            log.warning("disk: C.%d filled %s with %d bytes: emptied", contract_id, file.name, file.size_bytes)
            if (rented := before.get(contract_id)) is not None and rented == after.get(contract_id):
                over = Overrun(
                    contract_id, rented.generation, file.size_bytes, ENGINE_FILE_BYTES, engine_file=file.name
                )
                known = {**known, contract_id: over}
        await self._put(tuple(known.values()))

    async def _put(self, measured: tuple[Overrun, ...]) -> None:
        known, rented = await self._database.read(lambda tx: (disk.overruns(tx), _rented(tx)))
        new = {one.contract_id: one for one in measured if not one.engine_file}
        # Who filled a file of the engine's did so: that the file was emptied changes nothing.
        filled = {one.contract_id: one for one in (*known.values(), *measured) if one.engine_file}
        for one in filled.values():
            if (current := rented.get(one.contract_id)) is not None and current.generation == one.generation:
                new[one.contract_id] = one
        if new == known:
            return
        found = tuple(new.values())
        for one in found:
            log.warning(
                "disk: C.%d holds %d bytes, %d were rented", one.contract_id, one.size_bytes, one.promised_bytes
            )
        await self._database.transaction(lambda tx: disk.put_overruns(tx, found), Topic.CONTRACTS)

    # Room

    async def _keep_room(self) -> Condition | None:
        """Remove images while there is too little room; what is wrong if that is not enough. Raises WorkloadError."""
        listed_at = self._clock.now()
        listed = await self._hands.engine.images()

        def note(tx: Transaction) -> None:
            images.keep_pulled(tx, [one.image_id for one in listed], listed_at)
            images.touch_pulled(tx, [one.image_id for one in listed if one.in_use], listed_at)

        await self._database.transaction(note)
        space = await self._hands.space()
        mark = low_water_bytes(space.total_bytes, self._hands.low_water_bytes)
        if space.free_bytes >= mark:
            return None
        await self._hands.engine.sweep()
        for image in await self._evictable(listed):
            await self._evict(image, space, mark)
            space = await self._hands.space()
            if space.free_bytes >= mark:
                return None
        return _low(space, mark)

    async def _evictable(self, listed: Iterable[EngineImage]) -> tuple[HeldImage, ...]:
        pulled, wanted = await self._database.read(lambda tx: (images.all_pulled(tx), _wanted(tx)))
        known = {one.image_id: one for one in pulled}
        held = [
            HeldImage(
                one.image_id,
                one.tags,
                one.size_bytes,
                one.in_use,
                known[one.image_id].reference if one.image_id in known else None,
                known[one.image_id].used_at if one.image_id in known else None,
            )
            for one in listed
        ]
        return evictable(held, wanted)

    async def _evict(self, image: HeldImage, space: Space, mark: int) -> None:
        async def remove() -> None:
            await self._hands.engine.remove_image(image.image_id)

        try:
            if not await self._hands.images.remove([image.image_id, image.reference or ""], remove):
                return
        except WorkloadError as error:
            if error.code != "engine_conflict":
                raise
            log.info("disk: image %s stays: %s", image.reference, error.problem.evidence)
            return
        log.warning(
            "disk: removed image %s (%s), last used %s: %s were free, the low-water mark is %s",
            image.reference,
            format_bytes(image.size_bytes),
            image.used_at,
            format_bytes(space.free_bytes),
            format_bytes(mark),
        )


def _rented(tx: Transaction) -> dict[int, _Rented]:
    """By contract id: all that have a container of what is rented now."""
    rows = workloads.all_workloads(tx)
    found = {}
    for stored in contracts.all_contracts(tx):
        contract = stored.contract
        row = rows.get(contract.contract_id)
        # A newer generation may have other terms, and its container is not there yet.
        if row is None or row.state in _OVER or row.answered < contract.generation or row.container_id is None:
            continue
        found[contract.contract_id] = _Rented(row.container_id, row.generation, contract.spec.disk_bytes)
    return found


def _surer(new: Overrun, known: Overrun | None) -> Overrun:
    """What was measured without holes stands: an instance that was stopped does not start because `du` failed."""
    if not new.counts_holes or known is None or known.counts_holes:
        return new
    is_same = (known.generation, known.promised_bytes) == (new.generation, new.promised_bytes)
    return known if is_same else new


def _wanted(tx: Transaction) -> frozenset[str]:
    """Images that some contract may still start from: of all that have not ended."""
    rows = workloads.all_workloads(tx)
    states = {number: row.state for number, row in rows.items()}
    return frozenset(
        plain_name(stored.contract.spec.image)
        for stored in contracts.all_contracts(tx)
        if states.get(stored.contract.contract_id) not in _OVER
    )


def _unsure(one: LimitsUnsure) -> Condition:
    return Condition(
        Problem(
            "disk_limits_unsure",
            f"cannot be sure that disk sizes are enforced on {one.folder}: the counts of btrfs are not sound",
            remedy=f"kaalia rescans by itself; if it stays: btrfs quota rescan -w {one.folder}",
            evidence=one.evidence,
        ),
        Severity.WARN,
        "a rescan ends and the kernel calls its counts consistent; until then sizes are measured",
        scope=one.folder,
    )


def _over(one: Overrun) -> Condition:
    severity = Severity.CRITICAL if one.is_exceeded else Severity.WARN
    clears = "it is measured at its rented size or below, or is gone"
    if one.engine_file:
        clears = "it is recycled, or is gone"
    if one.is_exceeded:
        return Condition(one.problem, severity, clears, scope=f"C.{one.contract_id}")
    problem = Problem(
        "disk_over_size",
        f"cannot hold C.{one.contract_id} to its size on this file system: {one.warning}",
        remedy="put Docker's data root on btrfs, or on xfs mounted with pquota, and sizes are enforced",
        evidence=one.problem.evidence,
    )
    return Condition(problem, severity, clears, scope=f"C.{one.contract_id}")


def _low(space: Space, mark: int) -> Condition:
    return Condition(
        Problem(
            "disk_low",
            f"cannot keep {format_bytes(mark)} of Docker's disk free: {format_bytes(space.free_bytes)} are left",
            remedy="see `kaalia disk`; free space, or remove images that nobody needs: docker image rm NAME",
            evidence=f"{space.free_bytes} of {space.total_bytes} bytes free, low-water mark {mark}; "
            "no image that kaalia pulled is unused",
        ),
        Severity.WARN,
        "more than the low-water mark is free",
    )
