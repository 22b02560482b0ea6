"""Volumes on real file systems: btrfs with qgroups, and ext4 in a file elsewhere. In the sandbox only."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.errors import WorkloadError
from kaalia.model.volume import VolumeBackend
from kaalia.runtime.volumes.backends import Loop
from kaalia.runtime.volumes.disk import DiskVolumes, default_folder
from kaalia.runtime.volumes.place import Place
from kaalia.runtime.volumes.qgroups import BtrfsLimits
from kaalia.units import MIB

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

SIZE = 64 * MIB
VOLUME = Volume(5, "a" * 32, SIZE, VolumeDesired.PRESENT)


@dataclass
class Disk:
    kind: VolumeBackend
    data_root: Path
    limits: BtrfsLimits
    mounted: set[str] = field(default_factory=set)

    def hands(self) -> DiskVolumes:
        """As a daemon that has just started."""

        async def data_root() -> str:
            return str(self.data_root)

        async def sources() -> frozenset[str]:
            return frozenset(self.mounted)

        return DiskVolumes("7@b16c2d1bead12626", data_root, sources, self.limits)


@pytest_asyncio.fixture(params=list(VolumeBackend), ids=str)
async def disk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Disk]:
    """A file system of its own as Docker's data root."""
    if "KAALIA_TEST_NAMESPACES" not in os.environ:
        pytest.skip("mounts: run it by scripts/sandbox")
    kind: VolumeBackend = request.param
    root, image = tmp_path / "docker", tmp_path / "disk.img"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(600 * MIB)
    mount(kind, image, root)
    limits = BtrfsLimits()
    yield Disk(kind, root, limits)
    await limits.close()
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if line.split()[1].startswith(str(tmp_path)):
            subprocess.run(["umount", line.split()[1]], check=True)


def mount(kind: VolumeBackend, image: Path, root: Path) -> None:
    """A new file system of this kind. xfs is skipped where there is none with quotas."""
    made_by = {VolumeBackend.BTRFS: "mkfs.btrfs", VolumeBackend.XFS: "mkfs.xfs"}.get(kind, "mkfs.ext4")
    is_xfs = kind is VolumeBackend.XFS
    if is_xfs and not (shutil.which("mkfs.xfs") and shutil.which("xfs_quota")):
        pytest.skip("xfsprogs is not installed")
    subprocess.run([made_by, "-q", image], check=True)
    options = "loop,pquota" if is_xfs else "loop"
    done = subprocess.run(["mount", "-o", options, image, root], check=not is_xfs, capture_output=is_xfs)
    if done.returncode:
        pytest.skip("this kernel has no quotas for xfs")


def fill(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(bytes(MIB))
            file.flush()
            os.fsync(file.fileno())


async def test_a_volume_is_made_limited_kept_and_removed(disk: Disk) -> None:
    hands = disk.hands()
    assert await hands.open() is disk.kind
    await hands.make(VOLUME)
    data = Path(await hands.ready(VOLUME))
    (data / "file").write_text("kept")

    with pytest.raises(OSError, match=r"No space left|quota exceeded"):
        fill(data / "big", SIZE + 8 * MIB)
    assert (await hands.used_bytes(5) or 0) > SIZE // 2
    taken = await hands.taken_bytes(5) or 0
    (data / "big").unlink()
    await asyncio.to_thread(os.sync)
    left = await hands.taken_bytes(5) or 0
    assert taken > SIZE // 2
    # A file of full size takes all of it from the first day on; the others take what is filled.
    assert left > SIZE // 2 if disk.kind is VolumeBackend.LOOP else left < SIZE // 2

    again = disk.hands()
    await again.make(VOLUME)
    assert (Path(await again.ready(VOLUME)) / "file").read_text() == "kept", "a whole volume is never made anew"
    assert await again.found() == (5,)
    await again.remove(5, VOLUME.key)
    await again.remove(5, VOLUME.key)
    assert await again.found() == ()


async def test_it_is_mounted_again_after_a_reboot(disk: Disk) -> None:
    hands = disk.hands()
    await hands.make(VOLUME)
    data = Path(await hands.ready(VOLUME))
    (data / "file").write_text("kept")
    if disk.kind is VolumeBackend.LOOP:
        subprocess.run(["umount", data.parent], check=True)
        assert not data.exists(), "an unmounted volume has no folder that could be filled by mistake"

    assert (Path(await disk.hands().ready(VOLUME)) / "file").read_text() == "kept"


async def test_what_is_gone_is_told_and_not_made_anew(disk: Disk) -> None:
    hands = disk.hands()
    await hands.open()

    with pytest.raises(WorkloadError) as missing:
        await hands.ready(VOLUME)

    assert missing.value.code == "volume_missing"
    assert await hands.found() == ()


async def test_data_of_another_volume_are_neither_given_nor_removed(disk: Disk) -> None:
    hands = disk.hands()
    await hands.make(VOLUME)
    other = replace(VOLUME, key="b" * 32)

    with pytest.raises(WorkloadError) as taken:
        await hands.make(other)
    assert taken.value.code == "volume_taken"
    with pytest.raises(WorkloadError):
        await hands.ready(other)
    await hands.remove(5, other.key)
    assert await hands.ready(VOLUME)


async def test_a_volume_that_a_container_mounts_stays(disk: Disk) -> None:
    hands = disk.hands()
    await hands.make(VOLUME)
    disk.mounted.add(await hands.ready(VOLUME))

    with pytest.raises(WorkloadError) as refused:
        await hands.remove(5, VOLUME.key)

    assert refused.value.code == "volume_in_use"
    assert await hands.ready(VOLUME)


async def test_a_copy_begins_with_the_data_of_its_source(disk: Disk) -> None:
    hands = disk.hands()
    await hands.make(VOLUME)
    (Path(await hands.ready(VOLUME)) / "file").write_text("kept")
    copy = Volume(6, "c" * 32, SIZE, VolumeDesired.PRESENT, copy_of=5)

    await hands.make(copy)

    assert (Path(await hands.ready(copy)) / "file").read_text() == "kept"


async def test_a_volume_that_the_disk_has_no_room_for_is_refused_and_leaves_nothing(disk: Disk) -> None:
    if disk.kind is not VolumeBackend.LOOP:
        pytest.skip("takes no space at once")
    hands = disk.hands()
    await hands.open()

    with pytest.raises(WorkloadError) as full:
        await hands.make(replace(VOLUME, size_bytes=1000 * MIB))

    assert full.value.code == "disk_full"
    assert "1048576000" in full.value.problem.message
    assert [*Path(hands.place).iterdir()] == []
    await hands.make(VOLUME)
    assert await hands.ready(VOLUME)


async def test_where_space_cannot_be_taken_at_once_the_size_still_holds(tmp_path: Path) -> None:
    if "KAALIA_TEST_NAMESPACES" not in os.environ:
        pytest.skip("mounts: run it by scripts/sandbox")
    place, loop = Place(tmp_path, "7@b16c2d1bead12626"), Loop()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", tmp_path], check=True)
    place.root.mkdir()
    try:
        await loop.make(place, 5, SIZE)
        with pytest.raises(OSError, match="No space left"):
            fill(place.home(5) / "big", SIZE + 8 * MIB)
    finally:
        await loop.remove(place, 5)
        subprocess.run(["umount", tmp_path], check=True)


async def test_the_remains_of_a_crash_are_cleared_away(disk: Disk) -> None:
    hands = disk.hands()
    await hands.make(VOLUME)
    folder = Path(hands.place)
    (folder / "V.5.key").unlink()

    await hands.make(VOLUME)

    assert await hands.ready(VOLUME)


async def test_the_folder_is_in_a_data_root_that_is_a_file_system_of_its_own(disk: Disk, tmp_path: Path) -> None:
    assert await default_folder(disk.data_root) == disk.data_root / "kaalia-volumes"
    (tmp_path / "var" / "docker").mkdir(parents=True)
    assert await default_folder(tmp_path / "var" / "docker") == tmp_path / "var" / "kaalia-volumes"
