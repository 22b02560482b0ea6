"""Which mount holds a path, and which mounts should be there."""

from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host.mountinfo import Mount, holding, mounts, wanted_points
from tests.support.sysfs import write_files

LINES = r"""21 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
30 21 259:2 / /srv rw,noatime shared:2 - xfs /dev/nvme0n1p2 rw,prjquota
31 30 259:3 / /srv/with\040space rw - xfs /dev/nvme0n1p3 ro,prjquota
32 21 0:40 / /ro ro,nosuid - tmpfs tmpfs rw
torn line"""
FSTAB = """# comment
UUID=1 / ext4 defaults 0 1
UUID=2 /srv xfs rw,nofail,pquota 0 0  # data
UUID=3 /srv/docker xfs noauto 0 0
UUID=4 none swap sw 0 0
"""


def test_mounts_are_read_with_what_the_kernel_made_read_only(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/1/mountinfo": LINES})

    assert mounts(tmp_path) == (
        Mount("/", "/dev/vda1", "ext4", is_read_only=False, device="vda1"),
        Mount("/srv", "/dev/nvme0n1p2", "xfs", is_read_only=False, device="nvme0n1p2"),
        Mount("/srv/with space", "/dev/nvme0n1p3", "xfs", is_read_only=True, device="nvme0n1p3"),
        Mount("/ro", "tmpfs", "tmpfs", is_read_only=True),
    )


def test_the_deepest_mount_holds_a_path(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/1/mountinfo": LINES})
    known = mounts(tmp_path)

    points = [
        one.point for path in ("/srv/docker", "/srv", "/srvx", "/srv/with space/a") if (one := holding(path, known))
    ]
    assert points == ["/srv", "/srv", "/", "/srv/with space"]
    assert holding("/a", ()) is None


def test_mounts_of_this_machine_are_read() -> None:
    assert holding("/proc/1", mounts()) is not None


def test_fstab_says_what_should_be_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"etc/fstab": FSTAB})

    assert wanted_points("/srv/docker", tmp_path) == ("/srv",)
    assert wanted_points("/var/lib/kaalia", tmp_path) == ()


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        mounts(tmp_path)
