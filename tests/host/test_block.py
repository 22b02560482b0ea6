"""File systems of this machine, drives from sysfs trees made of real files and links."""

import shutil
from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host.block import drive_model, filesystem
from tests.support.sysfs import block_device, link, write_files


async def test_tells_the_file_system_of_a_path(tmp_path: Path) -> None:
    found = await filesystem(tmp_path)

    usage = shutil.disk_usage(tmp_path)
    assert found.total_bytes == usage.total
    assert abs(found.free_bytes - usage.free) < 2**30
    assert found.kind
    assert found.device


@pytest.mark.parametrize("name", ["--version", "a b", "$(id)"])
async def test_a_path_is_never_an_option_or_a_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    found = await filesystem(tmp_path / name)

    assert found.total_bytes == shutil.disk_usage(tmp_path).total


async def test_an_absent_path_is_named() -> None:
    with pytest.raises(HostError) as caught:
        await filesystem(Path("/no/such/folder"))

    assert caught.value.code == "command_failed"
    assert "No such file" in caught.value.problem.evidence


def test_model_of_a_disk_and_of_its_partition(tmp_path: Path) -> None:
    disk = block_device(tmp_path, "pci0/nvme/nvme0/nvme0n1", "Samsung SSD 980 PRO 2TB")
    block_device(tmp_path, f"{disk.relative_to(tmp_path / 'sys/devices')}/nvme0n1p2", partition=True)

    assert drive_model("/dev/nvme0n1", tmp_path) == "Samsung SSD 980 PRO 2TB"
    assert drive_model("/dev/nvme0n1p2", tmp_path) == "Samsung SSD 980 PRO 2TB"


def test_raid_and_volumes_name_the_drives_behind_them(tmp_path: Path) -> None:
    first = block_device(tmp_path, "pci0/sda", "WDC WD40")
    second = block_device(tmp_path, "pci0/sdb", "ST4000")
    third = block_device(tmp_path, "pci0/sdc", "ST4000")
    raid = block_device(tmp_path, "virtual/block/md0")
    volume = block_device(tmp_path, "virtual/block/dm-0")
    for member in (first, second, third):
        link(raid / "slaves" / member.name, member)
    link(volume / "slaves/md0", raid)
    write_files(tmp_path, {"dev/dm-0": ""})
    link(tmp_path / "dev/mapper/vg-docker", tmp_path / "dev/dm-0")

    assert drive_model("/dev/mapper/vg-docker", tmp_path) == "ST4000, WDC WD40"


def test_a_circle_of_slaves_ends(tmp_path: Path) -> None:
    volume = block_device(tmp_path, "virtual/block/dm-0")
    link(volume / "slaves/dm-0", volume)

    with pytest.raises(HostError, match="does not tell it"):
        drive_model("/dev/dm-0", tmp_path)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("tank/docker", "not a local block device"),
        ("server:/export", "not a local block device"),
        ("overlay", "not a local block device"),
        ("/dev/sdz", "no such block device"),
        ("/dev/loop0", "does not tell it"),
    ],
)
def test_what_has_no_model_says_why(tmp_path: Path, device: str, reason: str) -> None:
    block_device(tmp_path, "virtual/block/loop0")

    with pytest.raises(HostError, match=reason) as caught:
        drive_model(device, tmp_path)

    assert caught.value.code == "unreadable"
    assert device in caught.value.problem.message
