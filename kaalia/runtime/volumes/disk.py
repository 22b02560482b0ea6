"""Volumes on this machine's disk, as `runtime.base.Volumes`.

They lie on the file system of Docker's data root, beside it or in it, in a folder of kaalia's own: so that one pool of
space serves instances and volumes. Removes nothing outside of the machine's own folder, and nothing that is mounted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaalia.contracts.volume import Volume
from kaalia.errors import WorkloadError
from kaalia.host import block
from kaalia.model.volume import VolumeBackend
from kaalia.runtime.volumes.backends import Backend, choose
from kaalia.runtime.volumes.commands import LONG_S, command
from kaalia.runtime.volumes.place import FOLDER, Place, missing
from kaalia.runtime.volumes.qgroups import BtrfsLimits


class DiskVolumes:
    """The volumes of one machine. `data_root`: asks the engine; `mount_sources`: what its containers have mounted."""

    def __init__(
        self,
        machine: str,
        data_root: Callable[[], Awaitable[str]],
        mount_sources: Callable[[], Awaitable[frozenset[str]]],
        limits: BtrfsLimits,
        folder: Path | None = None,
    ) -> None:
        self._machine = machine
        self._limits = limits
        self._data_root = data_root
        self._mount_sources = mount_sources
        self._folder = folder
        self._opened: tuple[Place, Backend] | None = None

    @property
    def place(self) -> str:
        return str(self._open()[0].root)

    async def open(self) -> VolumeBackend:
        if self._opened is None:
            folder = self._folder or await default_folder(Path(await self._data_root()))
            place = Place(folder, self._machine)
            await command("mkdir", "-p", "-m", "0700", folder)
            await command("mkdir", "-p", place.root)
            self._opened = place, await choose(folder, self._limits)
        return self._opened[1].kind

    async def make(self, volume: Volume) -> None:
        await self.open()
        place, backend = self._open()
        volume_id = volume.volume_id
        known = await asyncio.to_thread(place.key, volume_id)
        if known == volume.key:
            return
        if known is not None:
            raise WorkloadError(
                "volume_taken",
                f"cannot make volume {volume_id}: the data of another volume of this number are here",
                remedy="the owner looks at `kaalia disk orphans`, and removes them when nobody needs them",
            )
        await self.remove(volume_id, volume.key)  # what an earlier attempt left
        await backend.make(place, volume_id, volume.size_bytes)
        data = place.data(volume_id)
        # Anyone in the container may write: its user need not be root. Others of the machine do not get this far.
        await command("mkdir", "-m", "0777", data)
        if volume.copy_of is not None:
            source = await asyncio.to_thread(place.check, volume.copy_of)
            await command("cp", "-a", "--reflink=auto", "--", f"{source}/.", data, timeout_s=LONG_S)
        await command("tee", place.key_file(volume_id), stdin=volume.key.encode())
        await command("sync", "-f", place.key_file(volume_id))

    async def ready(self, volume: Volume) -> str:
        await self.open()
        place, backend = self._open()
        if await asyncio.to_thread(place.key, volume.volume_id) != volume.key:
            raise missing(volume.volume_id, f"{place.key_file(volume.volume_id)} does not hold its key")
        await backend.mount(place, volume.volume_id)
        if not await backend.is_here(place, volume.volume_id):
            raise missing(volume.volume_id, f"{place.home(volume.volume_id)} is no volume of {backend.kind}")
        return str(await asyncio.to_thread(place.check, volume.volume_id))

    async def used_bytes(self, volume_id: int) -> int | None:
        await self.open()
        place, backend = self._open()
        return await backend.used_bytes(place, volume_id)

    async def taken_bytes(self, volume_id: int) -> int | None:
        await self.open()
        place, backend = self._open()
        return await backend.taken_bytes(place, volume_id)

    async def remove(self, volume_id: int, key: str | None) -> None:
        await self.open()
        place, backend = self._open()
        if key is not None and await asyncio.to_thread(place.key, volume_id) not in (None, key):
            return
        if str(place.data(volume_id)) in await self._mount_sources():
            raise WorkloadError(
                "volume_in_use",
                f"cannot remove volume {volume_id}: a container has it mounted",
                remedy="it goes when the container is gone",
            )
        await command("rm", "-f", "--", place.key_file(volume_id))
        await backend.remove(place, volume_id)

    async def found(self) -> tuple[int, ...]:
        await self.open()
        return await asyncio.to_thread(self._open()[0].found)

    def _open(self) -> tuple[Place, Backend]:
        if self._opened is None:
            raise RuntimeError("volumes are used before they are opened")
        return self._opened


async def default_folder(data_root: Path) -> Path:
    """Beside Docker's data root; in it, when it is a file system of its own."""
    beside = data_root.parent / FOLDER
    is_same = await block.mount_point(data_root.parent) == await block.mount_point(data_root)
    return beside if is_same else data_root / FOLDER
