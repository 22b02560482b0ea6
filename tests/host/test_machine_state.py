"""Small facts of the machine: swap, services, waiting reboots, and how much room is left."""

from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host import boots, swapping, units
from kaalia.host.block import rooms
from tests.support.sysfs import write_files


def test_swap_is_counted(tmp_path: Path) -> None:
    memory = "MemTotal: 100 kB\nSwapTotal:       2048 kB\nSwapFree:        1024 kB"
    write_files(tmp_path, {"proc/meminfo": memory, "proc/vmstat": "pgin 5\npswpin 3\npswpout 4"})

    assert swapping.swap(tmp_path) == swapping.Swap(2048 * 1024, 1024 * 1024, 7)
    write_files(tmp_path, {"proc/vmstat": "pgin 5"})
    with pytest.raises(HostError):
        swapping.swap(tmp_path)


@pytest.mark.parametrize("where", ["sys/fs/cgroup/system.slice", "sys/fs/cgroup/systemd/system.slice"])
def test_services_are_seen_by_their_cgroups(tmp_path: Path, where: str) -> None:
    assert units.running_services(tmp_path) is None
    for name in ("k3s.service", "docker.service", "boot.mount"):
        (tmp_path / where / name).mkdir(parents=True)

    assert units.running_services(tmp_path) == frozenset({"k3s.service", "docker.service"})


def test_a_newer_kernel_of_the_same_flavour_waits(tmp_path: Path) -> None:
    names = ("6.8.0-45-generic", "6.8.0-107-generic", "6.11.0-9-lowlatency", "6.8.0-108-generic.old")
    write_files(tmp_path, {f"boot/vmlinuz-{name}": "" for name in names})

    assert boots.newer_kernel("6.8.0-45-generic", tmp_path) == "6.8.0-107-generic"
    assert boots.newer_kernel("6.8.0-107-generic", tmp_path) is None
    assert boots.newer_kernel("5.4.0-rescue", tmp_path) is None
    assert boots.newer_kernel("6.11.0-9-lowlatency", tmp_path) is None


def test_packages_may_ask_for_a_reboot(tmp_path: Path) -> None:
    assert boots.waiting_packages(tmp_path) is None
    write_files(tmp_path, {"run/reboot-required": "*** System restart required ***"})
    assert boots.waiting_packages(tmp_path) == ()
    write_files(tmp_path, {"run/reboot-required.pkgs": "linux-base\nlibc6\nlinux-base"})
    assert boots.waiting_packages(tmp_path) == ("linux-base", "libc6")


async def test_room_is_told_of_each_path_in_one_question(tmp_path: Path) -> None:
    one, other = await rooms([tmp_path, Path("/proc")])

    assert one.total_bytes > one.free_bytes > 0
    assert (other.mounted_at, other.total_bytes) == ("/proc", 0)
    with pytest.raises(HostError):
        await rooms([tmp_path / "absent"])
