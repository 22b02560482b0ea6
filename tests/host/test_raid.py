"""RAID arrays by /proc/mdstat: whole, degraded, rebuilding, failed."""

from pathlib import Path

import pytest

from kaalia.host.raid import RaidArray, arrays
from tests.support.sysfs import write_files

TEXT = """Personalities : [raid1] [raid6] [raid5] [raid4] [raid0]
md0 : active raid1 nvme1n1p2[1] nvme0n1p2[0]
      976630464 blocks super 1.2 [2/2] [UU]
      bitmap: 3/8 pages [12KB], 65536KB chunk

md1 : active raid5 sdd1[4] sdc1[2](F) sdb1[1] sda1[0]
      2930014208 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/2] [UU_]
      [==>..................]  recovery = 12.6% (123/976) finish=127.5min speed=33440K/sec

md2 : active (auto-read-only) raid0 sdf[1] sde[0]
      1953260544 blocks super 1.2 512k chunks

md127 : inactive sdg[0](S)
      976630464 blocks super 1.2

unused devices: <none>"""


def test_each_array_is_told(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/mdstat": TEXT})

    assert arrays(tmp_path) == (
        RaidArray("md0", is_active=True, wanted=2, present=2),
        RaidArray("md1", is_active=True, wanted=3, present=2, failed=("sdc1",), rebuilt_percent=12.6),
        RaidArray("md2", is_active=True),
        RaidArray("md127", is_active=False),
    )


def test_a_machine_without_raid_has_none(tmp_path: Path) -> None:
    assert arrays(tmp_path) is None
    write_files(tmp_path, {"proc/mdstat": "Personalities :\nunused devices: <none>"})
    assert arrays(tmp_path) == ()


FIRMWARE = """Personalities : [raid1]
md126 : active raid1 nvme0n1[1] nvme1n1[0]
      976759808 blocks super external:/md127/0 [2/2] [UU]

md127 : inactive nvme1n1[1](S) nvme0n1[0](S)
      10402 blocks super external:imsm

unused devices: <none>"""


def test_what_the_firmwares_arrays_are_cut_from_is_no_array(tmp_path: Path) -> None:
    """Of Intel VROC and DDF: it is never active, and nothing is wrong with it."""
    write_files(tmp_path, {"proc/mdstat": FIRMWARE})

    assert arrays(tmp_path) == (RaidArray("md126", is_active=True, wanted=2, present=2),)


@pytest.mark.parametrize(
    ("level", "disks", "is_lost"),
    [
        ("raid5", "[4/3] [UUU_]", False),
        ("raid5", "[4/2] [UU__]", True),
        ("raid6", "[6/4] [UUUU__]", False),
        ("raid6", "[6/3] [UUU___]", True),
        ("raid1", "[3/1] [U__]", False),
        ("raid10", "[4/2] [U_U_]", False),
        ("raid1", "[2/0] [__]", True),
    ],
)
def test_an_array_that_lacks_too_many_disks_is_lost(tmp_path: Path, level: str, disks: str, is_lost: bool) -> None:
    write_files(tmp_path, {"proc/mdstat": f"md0 : active {level} sda1[0]\n      9 blocks super 1.2 {disks}\n"})

    (found,) = arrays(tmp_path) or ()
    assert found.is_lost is is_lost
