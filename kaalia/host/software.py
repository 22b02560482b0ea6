"""Versions of what stands between a GPU and a container, and the network cards. Each raises HostError when not told."""

import contextlib
import platform
import re
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable
from kaalia.host.process import run
from kaalia.model.inventory import Nic

ROOT = Path("/")
VERSION_TIMEOUT_S = 10.0
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_VERSION = re.compile(r"\d+(?:\.\d+)+(?:[-~+]?[0-9A-Za-z.]+)?")


def kernel_module(root: Path = ROOT) -> str:
    """Version of the NVIDIA driver that the kernel has loaded: after an upgrade the library is another one."""
    with contextlib.suppress(HostError):
        return read_text(root / "sys/module/nvidia/version")
    match = _VERSION.search(_module_line(root))
    if match is None:
        raise unreadable("the NVIDIA module's version", "the kernel has no NVIDIA driver loaded")
    return match[0]


def kernel_module_open(root: Path = ROOT) -> bool:
    """Whether it is NVIDIA's open module."""
    line = _module_line(root)
    if not line:
        raise unreadable("the kind of the NVIDIA module", "the kernel has no NVIDIA driver loaded")
    return "Open Kernel Module" in line


async def container_toolkit() -> str:
    return await version_of("nvidia-ctk", "--version")


async def fabric_manager() -> str:
    """Only machines with NVSwitches have one."""
    return await version_of("nv-fabricmanager", "--version")


async def version_of(*argv: str) -> str:
    """The first number with points that a program prints. Raises HostError `command_missing`, `unreadable`."""
    result = await run(argv, VERSION_TIMEOUT_S, env=_ENVIRONMENT)
    match = _VERSION.search(result.stdout or result.stderr)
    if match is None:
        raise unreadable(f"the version of {argv[0]}", f"it printed {(result.stdout or result.stderr)[:100]!r}")
    return match[0]


def libc() -> str:
    return " ".join(part for part in platform.libc_ver() if part) or "unknown"


def python() -> str:
    return platform.python_version()


def cgroup_mode(root: Path = ROOT) -> str:
    """Which hierarchies are mounted: `unified` (version 2 alone), `hybrid`, or `legacy`."""
    folder = root / "sys/fs/cgroup"
    if (folder / "cgroup.controllers").exists():
        return "unified"
    if not folder.is_dir():
        raise unreadable("the cgroup mode", f"{folder} is not mounted")
    return "hybrid" if (folder / "unified").is_dir() else "legacy"


def init(root: Path = ROOT) -> str:
    """The name of process 1."""
    return read_text(root / "proc/1/comm")


def nics(root: Path = ROOT) -> tuple[Nic, ...]:
    """Network cards: what has a device of its own. Bridges, veth pairs and tunnels have none."""
    folder = root / "sys/class/net"
    return tuple(
        _nic(entry) for entry in (sorted(folder.iterdir()) if folder.is_dir() else ()) if (entry / "device").exists()
    )


def _nic(entry: Path) -> Nic:
    device = (entry / "device").resolve()
    driver = device / "driver"
    return Nic(
        name=entry.name,
        driver=driver.resolve().name if driver.exists() else None,
        speed_mbps=_positive(entry / "speed"),
        mtu=_positive(entry / "mtu"),
        pci_address=device.name if re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", device.name) else None,
    )


def _positive(path: Path) -> int | None:
    """A card that is down says -1, or refuses to be read."""
    try:
        text = read_text(path)
    except HostError:
        return None
    return int(text) if text.isdecimal() and int(text) else None


def _module_line(root: Path) -> str:
    with contextlib.suppress(HostError):
        return read_text(root / "proc/driver/nvidia/version").partition("\n")[0]
    return ""
