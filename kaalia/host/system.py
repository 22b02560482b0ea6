"""The computer itself: processor, memory, board, operating system, addresses. The only importer of psutil.

Each function reads one fact and raises HostError `unreadable` when this machine does not tell it: no fact is guessed.
`root` is the file system that holds /proc, /sys and /etc; tests give their own.
"""

import contextlib
import re
import socket
from datetime import datetime
from pathlib import Path

import psutil

from kaalia.clock import from_epoch
from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable

ROOT = Path("/")

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
"""In the path of a cgroup, as `/docker/ID` or `/system.slice/docker-ID.scope`."""
_PLACEHOLDERS = frozenset(
    {"", "none", "default string", "to be filled by o.e.m.", "system product name", "not specified"}
)
"""What firmware says when the maker filled nothing in."""


def cpu_model(root: Path = ROOT) -> str:
    """As the kernel prints it, such as `AMD EPYC 7763 64-Core Processor`. ARM kernels do not tell it."""
    return _cpu_field(root, "model name")


def cpu_flags(root: Path = ROOT) -> tuple[str, ...]:
    """Feature flags of the first processor (`flags` on x86, `Features` on ARM), sorted."""
    return tuple(sorted(_cpu_field(root, "flags", "Features").split()))


def cpu_max_ghz(root: Path = ROOT) -> float:
    """The fastest core's highest frequency. Virtual machines often do not tell it."""
    files = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"))
    if not files:
        raise unreadable("the highest CPU frequency", "the kernel has no cpufreq driver for this CPU")
    return max(int(read_text(file)) for file in files) / 1_000_000


def cpu_logical_cores() -> int:
    return int(psutil.cpu_count(logical=True) or 1)


def cpu_physical_cores() -> int:
    count = psutil.cpu_count(logical=False)
    if not count:
        raise unreadable("the number of physical cores", "the kernel does not tell the CPU topology")
    return int(count)


def architecture(machine: str) -> str:
    """The kernel's machine name in the words of container images: `amd64`, `arm64`, else unchanged."""
    return _ARCHITECTURES.get(machine, machine)


def memory_bytes() -> tuple[int, int]:
    """Total, and available to new programs without swapping."""
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def boot_id(root: Path = ROOT) -> str:
    """Random, new with each boot."""
    return read_text(root / "proc/sys/kernel/random/boot_id")


def booted_at() -> datetime:
    """Moves with corrections of the wall clock: use `boot_id` to tell one boot from another."""
    return from_epoch(psutil.boot_time())


def os_name(root: Path = ROOT) -> str:
    """`PRETTY_NAME` of /etc/os-release, such as `Ubuntu 22.04.4 LTS`."""
    match = re.search(r'^PRETTY_NAME=["\']?(.*?)["\']?$', read_text(root / "etc/os-release"), re.MULTILINE)
    if match is None or not match[1]:
        raise unreadable("the name of the operating system", "/etc/os-release has no PRETTY_NAME")
    return match[1]


def board(root: Path = ROOT) -> str:
    """Maker and name of the mainboard, or of the device on ARM boards without DMI."""
    folder = root / "sys/class/dmi/id"
    if not folder.is_dir():
        return _device_tree_model(root)
    words = [_dmi(folder / "board_vendor"), _dmi(folder / "board_name")]
    text = " ".join(word for word in words if word)
    if not text:
        raise unreadable("the name of the mainboard", "the firmware does not tell it")
    return text


def addresses() -> tuple[tuple[str, str], ...]:
    """(interface, IPv4 address) of this machine without loopback, in the kernel's order."""
    return tuple(
        (interface, entry.address)
        for interface, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    )


def port_users() -> dict[tuple[int, str], str]:
    """By (port, `tcp` or `udp`): the program of this machine that listens there, as `NAME (pid N)`.

    Reads the open files of every process, which takes a machine with thousands of them a second. Of root's
    processes only root can tell; what cannot be told is absent.
    """
    found: dict[tuple[int, str], str] = {}
    try:
        sockets = psutil.net_connections("inet")
    except (psutil.Error, OSError, ValueError):
        return {}
    for one in sockets:
        is_open = one.status == psutil.CONN_LISTEN if one.type == socket.SOCK_STREAM else not one.raddr
        if one.laddr and one.pid and is_open:
            with contextlib.suppress(HostError):
                name = f"{process_name(one.pid).strip()} (pid {one.pid})"
                found[one.laddr.port, "tcp" if one.type == socket.SOCK_STREAM else "udp"] = name
    return found


def process_name(pid: int, root: Path = ROOT) -> str:
    """The kernel's short name of a process. Raises HostError `unreadable` when it is gone."""
    return read_text(root / f"proc/{pid}/comm")


def process_containers(pid: int, root: Path = ROOT) -> tuple[str, ...]:
    """Ids of the containers whose cgroups hold a process, the outermost first; none: a process of the machine.

    A tenant can make cgroups below its own only, so the outermost id is never a tenant's choice.
    """
    lines = read_text(root / f"proc/{pid}/cgroup").splitlines()
    # cgroup v1 has one line for each controller, all with the same containers.
    found = (tuple(_CONTAINER_ID.findall(line.split(":", 2)[-1])) for line in lines)
    return max(found, key=len, default=())


def _cpu_field(root: Path, *names: str) -> str:
    """A field of the first processor in /proc/cpuinfo; only that block is read, 256 cores have 400 KiB of them."""
    path = root / "proc/cpuinfo"
    try:
        with path.open() as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in names and value.strip():
                    return value.strip()
                if not line.strip():
                    break
    except OSError as error:
        raise unreadable(str(path), str(error)) from error
    raise unreadable(f"the CPU's {names[0]}", f"{path} does not tell it")


def _dmi(path: Path) -> str:
    try:
        text = read_text(path)
    except HostError:
        return ""
    return "" if text.lower() in _PLACEHOLDERS else text


def _device_tree_model(root: Path) -> str:
    try:
        return read_text(root / "proc/device-tree/model").rstrip("\0")
    except HostError:
        raise unreadable("the name of the mainboard", "the kernel exposes no DMI table") from None
