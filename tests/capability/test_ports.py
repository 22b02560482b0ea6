"""Ports of renters in the kernel's own range: told with what to set, and only where the kernel says so."""

from pathlib import Path

import pytest

from kaalia.capability.ports import find
from kaalia.model.machine import PortRange

PORTS = PortRange(40000, 40799)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    (tmp_path / "proc/sys/net/ipv4").mkdir(parents=True)
    return tmp_path


def say(root: Path, outgoing: str, reserved: str) -> None:
    folder = root / "proc/sys/net/ipv4"
    (folder / "ip_local_port_range").write_text(outgoing)
    (folder / "ip_local_reserved_ports").write_text(reserved)


@pytest.mark.parametrize(
    ("outgoing", "reserved", "exposed"),
    [
        ("32768\t60999\n", "\n", 800),
        ("32768\t60999\n", "8080,40000-40399\n", 400),
        ("32768\t40009\n", "40000\n", 9),
    ],
)
def test_ports_that_are_open_to_both_are_told(kernel: Path, outgoing: str, reserved: str, exposed: int) -> None:
    say(kernel, outgoing, reserved)

    (condition,) = find(PORTS, kernel)

    assert condition.problem.code == "ports_not_reserved"
    assert condition.problem.message.startswith(f"cannot keep {exposed} of ports.range=40000-40799 free")


def test_the_remedy_keeps_what_is_reserved(kernel: Path) -> None:
    say(kernel, "32768\t60999\n", "8080,9000-9009\n")

    (condition,) = find(PORTS, kernel)

    assert condition.problem.remedy.endswith("ip_local_reserved_ports=8080-8080,9000-9009,40000-40799")


@pytest.mark.parametrize(
    ("outgoing", "reserved"),
    [
        ("32768\t60999\n", "40000-40799\n"),
        ("32768\t60999\n", "39000-40100,40101-50000\n"),
        ("50000\t60999\n", "\n"),
        ("no range\n", "\n"),
        ("32768\t60999\n", "what\n"),
    ],
)
def test_nothing_is_claimed_without_need_or_knowledge(kernel: Path, outgoing: str, reserved: str) -> None:
    say(kernel, outgoing, reserved)

    assert find(PORTS, kernel) == ()


def test_a_kernel_that_does_not_tell_is_no_warning(kernel: Path) -> None:
    assert find(PORTS, kernel) == ()
