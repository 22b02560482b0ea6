"""The processors in detail, as sysfs and /proc/cpuinfo show them: sockets, caches, NUMA nodes, frequencies.

Each function reads one thing and raises HostError `unreadable` when this machine does not tell it. `root` holds /proc
and /sys; tests give their own.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable
from kaalia.model.inventory import Cache, NumaNode

ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_KINDS = {"Data": "data", "Instruction": "instruction", "Unified": "unified"}
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_NOMINAL = re.compile(r"@ (\d+(?:\.\d+)?)GHz")
"""Intel writes the base frequency into the name."""


def first_block(root: Path = ROOT) -> Mapping[str, str]:
    """The fields of the first processor in /proc/cpuinfo; the others are as it is."""
    path = root / "proc/cpuinfo"
    found: dict[str, str] = {}
    try:
        with path.open() as file:
            for line in file:
                if not line.strip():
                    break
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
    except OSError as error:
        raise unreadable(str(path), str(error)) from error
    return found


def field(block: Mapping[str, str], *names: str) -> str:
    for name in names:
        if block.get(name):
            return block[name]
    raise unreadable(f"the CPU's {names[0]}", "/proc/cpuinfo does not tell it")


def number(block: Mapping[str, str], *names: str) -> int:
    text = field(block, *names)
    try:
        return int(text, 0)
    except ValueError:
        raise unreadable(f"the CPU's {names[0]}", f"{text!r} is not a number") from None


def current_ghz(block: Mapping[str, str]) -> float:
    """Of the first processor, at this moment; a virtual machine tells its host's nominal one."""
    text = field(block, "cpu MHz")
    try:
        return round(float(text) / 1000, 3)
    except ValueError:
        raise unreadable("the CPU's frequency", f"{text!r} is not a number") from None


def base_ghz(block: Mapping[str, str], root: Path = ROOT) -> float:
    """What it holds without boost: by the frequency driver, else by the name that its maker gave it."""
    with contextlib.suppress(HostError):
        return _khz(root / _CPUS / "cpu0/cpufreq/base_frequency")
    match = _NOMINAL.search(block.get("model name", ""))
    if match is None:
        raise unreadable("the base frequency", "neither the frequency driver nor the CPU's name tells it")
    return float(match[1])


def min_ghz(root: Path = ROOT) -> float:
    try:
        return _khz(root / _CPUS / "cpu0/cpufreq/cpuinfo_min_freq")
    except HostError:
        raise unreadable("the lowest CPU frequency", "the kernel has no cpufreq driver for this CPU") from None


def governor(root: Path = ROOT) -> str:
    try:
        return read_text(root / _CPUS / "cpu0/cpufreq/scaling_governor")
    except HostError:
        raise unreadable("the frequency governor", "the kernel has no cpufreq driver for this CPU") from None


def sockets(root: Path = ROOT) -> int:
    """Packages that hold the present processors."""
    found = set()
    for path in (root / _CPUS).glob("cpu[0-9]*/topology/physical_package_id"):
        with contextlib.suppress(HostError):
            found.add(read_text(path))
    if not found:
        raise unreadable("the number of sockets", "the kernel does not tell the CPU topology")
    return len(found)


def threads_per_core(root: Path = ROOT) -> int:
    return count_of(read_text(root / _CPUS / "cpu0/topology/thread_siblings_list"))


def caches(root: Path = ROOT) -> tuple[Cache, ...]:
    """By level and kind. How many there are follows from how many processors share the first one."""
    cpus = len(list((root / _CPUS).glob("cpu[0-9]*/topology"))) or 1
    found = []
    for folder in sorted((root / _CPUS / "cpu0/cache").glob("index[0-9]*")):
        with contextlib.suppress(HostError, ValueError):
            sharing = count_of(read_text(folder / "shared_cpu_list"))
            found.append(
                Cache(
                    int(read_text(folder / "level")),
                    _KINDS.get(read_text(folder / "type"), "unified"),
                    _bytes(read_text(folder / "size")),
                    max(1, cpus // max(1, sharing)),
                )
            )
    if not found:
        raise unreadable("the caches", "the kernel does not tell them")
    return tuple(found)


def numa_nodes(root: Path = ROOT) -> tuple[NumaNode, ...]:
    """A kernel without NUMA has one node that is not listed."""
    found = []
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        with contextlib.suppress(HostError):
            found.append(NumaNode(int(folder.name[4:]), read_text(folder / "cpulist"), _node_bytes(folder)))
    if not found:
        raise unreadable("the NUMA nodes", "the kernel lists none")
    return tuple(sorted(found, key=lambda node: node.number))


def count_of(listed: str) -> int:
    """`0-3,8` are five."""
    total = 0
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        try:
            total += int(last or first) - int(first) + 1
        except ValueError:
            raise unreadable("a list of CPUs", f"{listed!r} is none") from None
    return total


def _node_bytes(folder: Path) -> int | None:
    match = re.search(r"MemTotal:\s+(\d+) kB", _optional(folder / "meminfo"))
    return int(match[1]) * 1024 if match else None


def _optional(path: Path) -> str:
    try:
        return read_text(path)
    except HostError:
        return ""


def _khz(path: Path) -> float:
    text = read_text(path)
    if not text.isdecimal():
        raise unreadable(str(path), f"{text!r} is not a number")
    return int(text) / 1_000_000


def _bytes(text: str) -> int:
    """`32K`."""
    return int(text[:-1]) * _SIZES[text[-1]] if text[-1:] in _SIZES else int(text)
