"""How the size of a volume is enforced: btrfs qgroups, xfs project quotas, or an ext4 file system in a file.

Each makes and removes the home of a volume (`V.<id>`), nothing inside it.
"""

import asyncio
import os
from pathlib import Path
from typing import Protocol

from kaalia.errors import HostError, WorkloadError
from kaalia.host import block
from kaalia.host.kernel import read_text
from kaalia.model.volume import VolumeBackend
from kaalia.runtime.volumes.commands import LONG_S, command
from kaalia.runtime.volumes.place import Place
from kaalia.runtime.volumes.qgroups import SETTLE_S, BtrfsLimits

_SUBVOLUME_INODE = 256
"""Of the root of every btrfs subvolume."""
_PROJECT_BASE = 0x40000000
"""Project numbers of volumes; Docker counts its own from 1."""

_NO_SPACE = "No space left on device"
_UNSUPPORTED = ("Operation not supported", "Function not implemented")
"""What `fallocate` says where the file system cannot take space at once: EOPNOTSUPP, ENOSYS."""

_BLOCK_BYTES = 512
"""What `st_blocks` counts in, whatever the file system: stat(2)."""


class Backend(Protocol):
    """One way to hold volumes."""

    kind: VolumeBackend

    async def make(self, place: Place, volume_id: int, size_bytes: int) -> None: ...

    async def mount(self, place: Place, volume_id: int) -> None:
        """Make a whole volume visible, as after a reboot."""
        ...

    async def is_here(self, place: Place, volume_id: int) -> bool:
        """It is not just a folder of its name."""
        ...

    async def used_bytes(self, place: Place, volume_id: int) -> int | None: ...

    async def taken_bytes(self, place: Place, volume_id: int) -> int | None:
        """Of the file system below: more than is used where space is taken at once."""
        ...

    async def remove(self, place: Place, volume_id: int) -> None: ...


class Btrfs:
    """A subvolume with a limit on what it refers to."""

    kind = VolumeBackend.BTRFS

    def __init__(self, limits: BtrfsLimits) -> None:
        self._limits = limits

    async def make(self, place: Place, volume_id: int, size_bytes: int) -> None:
        home = place.home(volume_id)
        await self._limits.settle(place.root, SETTLE_S)
        await command("btrfs", "subvolume", "create", home)
        await command("btrfs", "qgroup", "limit", str(size_bytes), home)

    async def mount(self, place: Place, volume_id: int) -> None:
        """Nothing to do: it is there with its file system."""

    async def is_here(self, place: Place, volume_id: int) -> bool:
        try:
            return (await asyncio.to_thread(os.lstat, place.home(volume_id))).st_ino == _SUBVOLUME_INODE
        except FileNotFoundError:
            return False

    async def used_bytes(self, place: Place, volume_id: int) -> int | None:
        shown = await command("btrfs", "qgroup", "show", "--raw", "--sync", "-f", place.home(volume_id))
        for line in shown.stdout.splitlines():
            words = line.split()
            if words and words[0].startswith("0/") and len(words) >= 3:
                return int(words[1])
        return None

    async def taken_bytes(self, place: Place, volume_id: int) -> int | None:
        return await self.used_bytes(place, volume_id)

    async def remove(self, place: Place, volume_id: int) -> None:
        home = place.home(volume_id)
        if await self.is_here(place, volume_id):
            subvolume_id = (await command("btrfs", "inspect-internal", "rootid", home)).stdout.strip()
            await command("btrfs", "subvolume", "delete", "--commit-after", home, timeout_s=LONG_S)
            await self._limits.removed(place.root, int(subvolume_id))
        elif await asyncio.to_thread(home.is_dir):
            await command("rmdir", home)


class Xfs:
    """A folder with a project quota."""

    kind = VolumeBackend.XFS

    async def make(self, place: Place, volume_id: int, size_bytes: int) -> None:
        home, project = place.home(volume_id), _PROJECT_BASE + volume_id
        point = await block.mount_point(place.root)
        await command("mkdir", "-p", home)
        await command("xfs_quota", "-x", "-c", f"project -s -p {home} {project}", point)
        await command("xfs_quota", "-x", "-c", f"limit -p bhard={size_bytes} {project}", point)

    async def mount(self, place: Place, volume_id: int) -> None:
        """Nothing to do: quotas are kept by the file system."""

    async def is_here(self, place: Place, volume_id: int) -> bool:
        return await asyncio.to_thread(place.home(volume_id).is_dir)

    async def used_bytes(self, place: Place, volume_id: int) -> int | None:
        point = await block.mount_point(place.root)
        words = (
            await command("xfs_quota", "-x", "-c", f"quota -p -N -b {_PROJECT_BASE + volume_id}", point)
        ).stdout.split()
        return int(words[1]) * 1024 if len(words) > 1 and words[1].isdecimal() else None

    async def taken_bytes(self, place: Place, volume_id: int) -> int | None:
        return await self.used_bytes(place, volume_id)

    async def remove(self, place: Place, volume_id: int) -> None:
        project = _PROJECT_BASE + volume_id
        home, point = place.home(volume_id), await block.mount_point(place.root)
        await command("rm", "-rf", "--one-file-system", "--", home, timeout_s=LONG_S)
        await command("xfs_quota", "-x", "-c", f"limit -p bhard=0 {project}", point)


class Loop:
    """A file of the full size, with ext4 in it. The space is taken at once where the file system can do that."""

    kind = VolumeBackend.LOOP

    async def make(self, place: Place, volume_id: int, size_bytes: int) -> None:
        image = place.image(volume_id)
        try:
            await command("fallocate", "-l", str(size_bytes), image, timeout_s=LONG_S)
        except HostError as error:
            await command("rm", "-f", "--", image)
            if _NO_SPACE in error.problem.evidence:
                raise _full(volume_id, size_bytes, error) from error
            if not any(text in error.problem.evidence for text in _UNSUPPORTED):
                raise
            await command("truncate", "-s", str(size_bytes), image)
        await command("mkfs.ext4", "-q", "-F", "-m", "0", image, timeout_s=LONG_S)
        await command("mkdir", "-p", place.home(volume_id))
        await self.mount(place, volume_id)

    async def mount(self, place: Place, volume_id: int) -> None:
        if not await self.is_here(place, volume_id) and await asyncio.to_thread(place.image(volume_id).is_file):
            await command("mkdir", "-p", place.home(volume_id))
            await command("mount", "-o", "loop,nosuid,nodev", place.image(volume_id), place.home(volume_id))

    async def is_here(self, place: Place, volume_id: int) -> bool:
        return await asyncio.to_thread(os.path.ismount, place.home(volume_id))

    async def used_bytes(self, place: Place, volume_id: int) -> int | None:
        if not await self.is_here(place, volume_id):
            return None
        found = await block.filesystem(place.home(volume_id))
        return found.total_bytes - found.free_bytes

    async def taken_bytes(self, place: Place, volume_id: int) -> int | None:
        try:
            found = await asyncio.to_thread(os.stat, place.image(volume_id))
        except FileNotFoundError:
            return None
        return found.st_blocks * _BLOCK_BYTES

    async def remove(self, place: Place, volume_id: int) -> None:
        home = place.home(volume_id)
        while await self.is_here(place, volume_id):
            await command("umount", home)
        await command("rm", "-f", "--", place.image(volume_id))
        if await asyncio.to_thread(home.is_dir):
            await command("rmdir", home)


def _full(volume_id: int, size_bytes: int, error: HostError) -> WorkloadError:
    return WorkloadError(
        "disk_full",
        f"cannot make volume {volume_id} of {size_bytes} bytes: the disk space is used up",
        remedy="rent a smaller volume, or free space on the machine",
        evidence=error.problem.evidence.strip(),
    )


async def choose(folder: Path, limits: BtrfsLimits) -> Backend:
    """The backend for the file system that holds `folder`. Raises HostError."""
    match await kind_at(folder):
        case VolumeBackend.BTRFS:
            await limits.watch(folder)
            return Btrfs(limits)
        case VolumeBackend.XFS:
            return Xfs()
        case VolumeBackend.LOOP:
            return Loop()


async def kind_at(folder: Path) -> VolumeBackend:
    """How volumes in `folder` are, or would be, held to their size. Raises HostError."""
    found = await block.filesystem(folder)
    if found.kind == "btrfs":
        return VolumeBackend.BTRFS
    is_counted = found.kind == "xfs" and await _has_project_quota(folder)
    return VolumeBackend.XFS if is_counted else VolumeBackend.LOOP


async def _has_project_quota(folder: Path) -> bool:
    point = await block.mount_point(folder)
    for line in (await asyncio.to_thread(read_text, Path("/proc/mounts"))).splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == point:
            return bool({"pquota", "prjquota"} & set(fields[3].split(",")))
    return False
