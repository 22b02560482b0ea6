"""The counts of btrfs, spoilt as removals spoil them, and mended. On a real file system, in the sandbox."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.runtime.base import LimitsUnsure
from kaalia.runtime.volumes.qgroups import BtrfsLimits
from kaalia.units import MIB
from tests.support import btrfs

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

LIMIT_BYTES = 16 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    if "KAALIA_TEST_NAMESPACES" not in os.environ:
        pytest.skip("mounts: run it by scripts/sandbox")
    folder, image = tmp_path / "disk", tmp_path / "disk.img"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(600 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    return folder


@pytest_asyncio.fixture
async def limits(disk: Path) -> AsyncIterator[BtrfsLimits]:
    made = BtrfsLimits()
    yield made
    await made.close()
    subprocess.run(["umount", disk], check=True)


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def subvolume(disk: Path, name: str) -> Path:
    """With 8 MiB in it and a limit of 16."""
    home = disk / name
    run("btrfs", "subvolume", "create", home)
    run("btrfs", "qgroup", "limit", str(LIMIT_BYTES), home)
    write(home / "some", 8)
    return home


def write(path: Path, size_mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


def spoil(disk: Path) -> None:
    btrfs.spoil_counts(disk)
    btrfs.clear_away(disk)
    assert btrfs.is_inconsistent(disk)


async def test_a_limit_holds_again_after_a_removal_that_spoilt_the_counts(disk: Path, limits: BtrfsLimits) -> None:
    assert await limits.settle(disk, 30)
    kept = subvolume(disk, "kept")
    spoil(disk)
    write(kept / "past-the-limit", 12)  # the fault itself: nothing is counted any more

    assert await limits.settle(disk, 30)

    assert not btrfs.is_inconsistent(disk)
    assert await limits.check(10) == ()
    with pytest.raises(OSError, match=r"quota exceeded|No space left"):
        write(kept / "more", 8)
    with pytest.raises(OSError, match=r"quota exceeded|No space left"):
        write(subvolume(disk, "new") / "too-much", 12)


async def test_spoilt_counts_are_told_until_they_are_mended(disk: Path, limits: BtrfsLimits) -> None:
    (volumes := disk / "volumes").mkdir()
    await limits.settle(volumes, 30)
    await limits.watch(disk)
    seen: tuple[LimitsUnsure, ...] = ()
    while not seen:  # so small a disk may be mended before the first word of it
        spoil(disk)
        seen = await limits.check(0)

    (told,) = seen
    for _ in range(100):
        left = await limits.check(0)
        if not left:
            break
        await asyncio.sleep(0.05)

    assert told.folder == str(volumes)
    assert told.folders == {str(volumes), str(disk)}
    assert told.evidence
    assert left == ()
    assert not btrfs.is_inconsistent(disk)


async def test_a_removal_is_mended_without_being_asked(disk: Path, limits: BtrfsLimits) -> None:
    await limits.settle(disk, 30)
    btrfs.spoil_counts(disk)

    await limits.removed(disk)

    await asyncio.to_thread(btrfs.clear_away, disk)
    for _ in range(300):
        if not btrfs.is_inconsistent(disk):
            break
        await asyncio.sleep(0.1)
    assert not btrfs.is_inconsistent(disk), "nobody waited for the clearing away"


async def test_many_who_ask_wait_for_one_rescan(disk: Path, limits: BtrfsLimits) -> None:
    await limits.settle(disk, 30)
    spoil(disk)

    assert all(await asyncio.gather(*(limits.settle(disk, 30) for _ in range(8))))


async def test_only_its_own_qgroup_goes_with_a_removed_subvolume(disk: Path, limits: BtrfsLimits) -> None:
    await limits.settle(disk, 30)
    home = subvolume(disk, "gone")
    run("btrfs", "qgroup", "create", "1/77", disk)
    before = btrfs.qgroups(disk)
    number = subprocess.run(["btrfs", "inspect-internal", "rootid", home], check=True, capture_output=True, text=True)
    subvolume_id = int(number.stdout)
    run("btrfs", "subvolume", "delete", "--commit-after", home)

    await limits.removed(disk, subvolume_id)
    for _ in range(300):
        if btrfs.qgroups(disk) != before:
            break
        await asyncio.sleep(0.1)

    assert f"0/{subvolume_id}" in before
    assert btrfs.qgroups(disk) == before - {f"0/{subvolume_id}"}


async def test_quotas_that_somebody_switched_off_are_told(disk: Path, limits: BtrfsLimits) -> None:
    await limits.settle(disk, 30)
    subvolume(disk, "kept")
    run("btrfs", "quota", "disable", disk)

    (told,) = await limits.check(1)

    assert "switched off" in told.evidence


async def test_a_disk_without_promises_is_left_alone(disk: Path, limits: BtrfsLimits) -> None:
    await limits.watch(disk)

    assert await limits.check(1) == ()
    shown = subprocess.run(["btrfs", "qgroup", "show", disk], check=False, capture_output=True, text=True)
    assert shown.returncode != 0, "quotas stay off until a size is promised"


async def test_a_folder_that_cannot_be_looked_at_is_told(disk: Path, limits: BtrfsLimits, tmp_path: Path) -> None:
    assert not await limits.settle(tmp_path / "nowhere", 1)

    (told,) = await limits.check(1)

    assert told.folder == str(tmp_path / "nowhere")
