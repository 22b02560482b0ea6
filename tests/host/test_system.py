"""Facts of this machine, and of machines made of real files."""

import os
import platform
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host import system
from tests.support.sysfs import write_files

EPYC = "\n".join(
    [
        "processor\t: 0",
        "vendor_id\t: AuthenticAMD",
        "model name\t: AMD EPYC 7763 64-Core Processor",
        "flags\t\t: fpu sse2 avx avx2",
        "power management:",
        "",
        "processor\t: 1",
        "model name\t: another one",
    ]
)
GRACE = "\n".join(["processor\t: 0", "BogoMIPS\t: 2000.00", "Features\t: fp asimd sve", "CPU part\t: 0xd4f"])


def test_reads_the_first_processor(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/cpuinfo": EPYC})

    assert system.cpu_model(tmp_path) == "AMD EPYC 7763 64-Core Processor"
    assert system.cpu_flags(tmp_path) == ("avx", "avx2", "fpu", "sse2")


def test_an_arm_kernel_tells_features_but_no_model(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/cpuinfo": GRACE})

    assert system.cpu_flags(tmp_path) == ("asimd", "fp", "sve")
    with pytest.raises(HostError, match="model name"):
        system.cpu_model(tmp_path)


def test_the_fastest_core_gives_the_frequency(tmp_path: Path) -> None:
    speeds = {0: "2400000", 1: "5200000", 10: "3800000"}
    folder = "sys/devices/system/cpu"
    write_files(tmp_path, {f"{folder}/cpu{core}/cpufreq/cpuinfo_max_freq": speed for core, speed in speeds.items()})

    assert system.cpu_max_ghz(tmp_path) == 5.2


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('PRETTY_NAME="Ubuntu 22.04.4 LTS"', "Ubuntu 22.04.4 LTS"),
        ("PRETTY_NAME='Rocky Linux 9.4'", "Rocky Linux 9.4"),
        ("PRETTY_NAME=Arch", "Arch"),
    ],
)
def test_reads_the_name_of_the_operating_system(tmp_path: Path, line: str, name: str) -> None:
    write_files(tmp_path, {"etc/os-release": f'NAME="x"\n{line}\nID=x'})

    assert system.os_name(tmp_path) == name


def test_reads_the_board(tmp_path: Path) -> None:
    write_files(tmp_path, {"sys/class/dmi/id/board_vendor": "ASRockRack", "sys/class/dmi/id/board_name": "ROMED8-2T"})

    assert system.board(tmp_path) == "ASRockRack ROMED8-2T"


def test_placeholders_of_the_firmware_are_no_board(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"sys/class/dmi/id/board_vendor": "To Be Filled By O.E.M.", "sys/class/dmi/id/board_name": "None"}
    )

    with pytest.raises(HostError, match="firmware does not tell"):
        system.board(tmp_path)


def test_a_board_without_dmi_is_named_by_its_device_tree(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/device-tree/model": "NVIDIA Jetson AGX Orin\0"})

    assert system.board(tmp_path).startswith("NVIDIA Jetson AGX Orin")
    assert "\0" not in system.board(tmp_path)


@pytest.mark.parametrize(
    "read",
    [
        system.cpu_model,
        system.cpu_flags,
        system.cpu_max_ghz,
        system.boot_id,
        system.os_name,
        system.board,
    ],
)
def test_what_is_absent_is_an_error_with_a_reason(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(HostError) as caught:
        read(tmp_path)

    assert caught.value.code == "unreadable"
    assert caught.value.problem.message.startswith("cannot read ")


def test_reads_this_machine() -> None:
    total_bytes, available_bytes = system.memory_bytes()

    assert system.cpu_logical_cores() == os.cpu_count()
    assert total_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_bytes <= total_bytes
    assert system.boot_id() == system.boot_id()
    assert len(system.boot_id()) == 36
    assert system.booted_at() < datetime.now(UTC)
    assert system.architecture(platform.machine()) in ("amd64", "arm64")
    assert system.architecture("riscv64") == "riscv64"


ID, INNER = "ab" * 32, "cd" * 32


@pytest.mark.parametrize(
    ("cgroup", "found"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", (ID,)),
        (f"0::/docker/{ID}\n", (ID,)),
        (f"0::/../../docker/{ID}/docker/{INNER}\n", (ID, INNER)),
        (f"12:cpuset:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n", (ID,)),
        ("0::/user.slice/user-1000.slice/session-2.scope\n", ()),
        (f"0::/docker/{ID}0\n", ()),
    ],
    ids=["systemd", "cgroupfs", "nested", "v1", "no container", "too long"],
)
def test_a_process_tells_its_containers(tmp_path: Path, cgroup: str, found: tuple[str, ...]) -> None:
    write_files(tmp_path, {"proc/77/cgroup": cgroup, "proc/77/comm": "python3\n"})

    assert system.process_containers(77, tmp_path) == found
    assert system.process_name(77, tmp_path) == "python3"


def test_a_process_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot read"):
        system.process_containers(77, tmp_path)


def test_who_listens_on_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        users = system.port_users()

        for port, protocol in ((door.getsockname()[1], "tcp"), (other.getsockname()[1], "udp")):
            assert users[port, protocol].endswith(f"(pid {os.getpid()})")
