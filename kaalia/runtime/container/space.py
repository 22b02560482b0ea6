"""Who fills the engine's disk, as `runtime.base.EngineDisk`: images, what containers wrote, volumes without a name."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from pathlib import PurePosixPath
from typing import Any

from kaalia.errors import HostError, WorkloadError
from kaalia.host import block
from kaalia.runtime.base import EngineImage, EngineUsage, GrownFile
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.engine_files import empty_grown
from kaalia.runtime.container.inside import Twins
from kaalia.runtime.container.spec import container_name
from kaalia.runtime.labels import machine_filter, owner, twin_of

log = logging.getLogger(__name__)

_COUNT_S = 600.0
"""For counting the blocks of one container's layer, or of one volume."""


class EngineSpace:
    """The disk of one engine, seen by one machine."""

    def __init__(self, engine: DockerEngine, machine: str, twins: Twins) -> None:
        self._engine = engine
        self._machine = machine
        self._twins = twins

    async def usage(self) -> EngineUsage:
        found = await self._engine.usage()
        volumes = {str(one.get("Name")): one.get("UsageData") or {} for one in found.get("Volumes") or []}
        mine: dict[int, int] = defaultdict(int)
        foreign = 0
        for one in found.get("Containers") or []:
            contract_id, size = owner(one.get("Labels"), self._machine), int(one.get("SizeRw") or 0)
            if contract_id is None:
                foreign += size
            else:
                mine[contract_id] += size + _nameless_bytes(one, volumes)
        cache = sum(int(one.get("Size") or 0) for one in found.get("BuildCache") or [])
        return EngineUsage(await self.images(), tuple(mine.items()), foreign, cache)

    async def written(self) -> dict[int, int]:
        sizes = {}
        for entry in await self._engine.containers(machine_filter(self._machine), with_sizes=True):
            contract_id = owner(entry.get("Labels"), self._machine)
            if contract_id is not None:
                sizes[contract_id] = int(entry.get("SizeRw") or 0)
                if any(one.get("Type") == "volume" for one in entry.get("Mounts") or []):
                    sizes[contract_id] += await _told(contract_id, self._nameless(contract_id)) or 0
        return sizes

    async def allocated(self, contract_id: int, written_bytes: int) -> int | None:
        return await _told(contract_id, self._allocated(contract_id, written_bytes))

    async def _allocated(self, contract_id: int, written_bytes: int) -> int | None:
        document = await self._document(contract_id)
        if _is_snapshot(document):
            return written_bytes
        driver = document.get("GraphDriver") or {}
        layer = str((driver.get("Data") or {}).get("UpperDir") or "")
        if not layer.startswith("/") or ".." in PurePosixPath(layer).parts:
            return None  # such as btrfs, whose subvolume also holds the image
        allocated = await block.allocated_bytes(layer, _COUNT_S) + await _nameless_allocated(document)
        return min(written_bytes, allocated)

    async def empty_grown(self, data_root: str, limit_bytes: int) -> dict[int, GrownFile]:
        found = {}
        for entry in await self._engine.containers(machine_filter(self._machine)):
            contract_id = owner(entry.get("Labels"), self._machine)
            if contract_id is None:
                continue
            document = await self._engine.inspect_container(str(entry["Id"])) or {}
            grown = await asyncio.to_thread(empty_grown, document, data_root, limit_bytes)
            if grown is not None:
                found[contract_id] = grown
        return found

    async def _nameless(self, contract_id: int) -> int:
        return await _nameless_allocated(await self._document(contract_id))

    async def _document(self, contract_id: int) -> Mapping[str, Any]:
        """The inspection of a contract's container; empty when there is none."""
        return await self._engine.inspect_container(container_name(contract_id)) or {}

    async def images(self) -> tuple[EngineImage, ...]:
        """Without twins, which are other names for what is listed."""
        listed, used = await asyncio.gather(self._engine.images(), self._engine.used_images())
        twins = {str(one["Id"]): twin_of(one.get("Labels"), self._machine) for one in listed}
        in_use = used | {parent for twin_id, parent in twins.items() if parent and twin_id in used}
        return tuple(
            EngineImage(
                image_id=str(one["Id"]),
                tags=tuple(tag for tag in one.get("RepoTags") or [] if not tag.startswith("<none>")),
                size_bytes=int(one.get("Size") or 0),
                in_use=str(one["Id"]) in in_use,
            )
            for one in listed
            if not twins[str(one["Id"])]
        )

    async def remove_image(self, image_id: str) -> None:
        await self._engine.remove_image(image_id)

    async def sweep(self) -> None:
        await self._twins.sweep()


async def _told(contract_id: int, count: Awaitable[int | None]) -> int | None:
    """None, and a word in the log, for one that cannot be counted: the others are measured for all that."""
    try:
        return await count
    except (HostError, WorkloadError) as error:
        log.warning("disk: files of C.%d are not counted: %s", contract_id, error)
        return None


async def _nameless_allocated(container: Mapping[str, Any]) -> int:
    """Blocks of the volumes that the engine made for this container, by its inspection. Raises HostError.

    All of its volumes are such: kaalia itself mounts folders only.
    """
    found = [str(one.get("Source")) for one in container.get("Mounts") or [] if one.get("Type") == "volume"]
    return sum([await block.allocated_bytes(folder, _COUNT_S) for folder in found])


def _is_snapshot(container: Mapping[str, Any]) -> bool:
    """Kept by containerd's image store, whose sizes are counted in blocks already (continuity `fs.DiskUsage`).

    Docker 29 names the snapshot; before, GraphDriver is called by it. Docker's own drivers have other names.
    """
    root = (container.get("Storage") or {}).get("RootFS") or {}
    return bool(root.get("Snapshot")) or (container.get("GraphDriver") or {}).get("Name") == "overlayfs"


def _nameless_bytes(container: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]]) -> int:
    """Volumes that the engine made for this container alone: they go with it."""
    mounted = (
        volumes.get(str(one.get("Name"))) for one in container.get("Mounts") or [] if one.get("Type") == "volume"
    )
    return sum(max(0, int(one.get("Size") or 0)) for one in mounted if one and one.get("RefCount") == 1)
