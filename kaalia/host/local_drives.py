"""Whole local disks, as sysfs tells them, beside what drives tell of themselves.

`root` holds /sys; tests give their own.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host import drives
from kaalia.host.kernel import read_text
from kaalia.model.inventory import Drive

ROOT = Path("/")
_SECTOR_BYTES = 512
"""In which sysfs counts sizes, whatever the disk's own sectors are."""
_NOT_DRIVES = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "drbd", "zd")


def find(root: Path = ROOT, docker_device: str | None = None) -> tuple[Drive, ...]:
    """Every local disk that is no removable one. `docker_device`: what holds Docker's data, such as /dev/nvme0n1p2."""
    beneath = _beneath(docker_device, root)
    folder = root / "sys/block"
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name.startswith(_NOT_DRIVES) or _text(entry / "removable") == "1":
            continue
        size = _text(entry / "size")
        if size.isdecimal() and int(size):
            found.append(_drive(entry, int(size) * _SECTOR_BYTES, holds_docker=entry.name in beneath))
    return tuple(found)


def with_health(drive: Drive, told: Iterable[drives.Drive]) -> Drive | None:
    """With what the drive itself tells; None: it is not among them. Of NVMe the controller is asked, not nvme0n1."""
    names = {drive.name, re.sub(r"^(nvme\d+)n\d+$", r"\1", drive.name)}
    health = next((one for one in told if one.device.removeprefix("/dev/") in names and not one.silent), None)
    if health is None:
        return None
    return replace(
        drive,
        passed=health.has_passed,
        wear_percent=health.used_percent,
        temperature_c=health.temperature_c,
        power_on_hours=health.power_on_hours,
        media_errors=health.lost_sectors,
    )


def _drive(entry: Path, total_bytes: int, *, holds_docker: bool) -> Drive:
    is_nvme = entry.name.startswith("nvme")
    kind = "nvme" if is_nvme else "hdd" if _text(entry / "queue/rotational") == "1" else "ssd"
    return Drive(
        name=entry.name,
        kind=kind,
        total_bytes=total_bytes,
        model=_text(entry / "device/model") or None,
        firmware=_text(entry / "device/firmware_rev") or _text(entry / "device/rev") or None,
        holds_docker=holds_docker,
    )


def _beneath(device: str | None, root: Path) -> frozenset[str]:
    """Names of the disks under a device: through RAID, volumes, encryption and partitions."""
    if device is None or not device.startswith("/dev/"):
        return frozenset()
    path = root / device.removeprefix("/")
    name = path.resolve().name if path.is_symlink() else path.name
    folder = root / "sys/class/block" / name
    return frozenset(_disks(folder.resolve(), 0)) if folder.exists() else frozenset()


def _disks(folder: Path, depth: int) -> Iterator[str]:
    slaves = sorted((folder / "slaves").iterdir()) if (folder / "slaves").is_dir() else []
    if depth > 8:
        return
    if slaves:
        for slave in slaves:
            yield from _disks(slave.resolve(), depth + 1)
    elif (folder / "partition").exists():
        yield from _disks(folder.parent, depth + 1)
    else:
        yield folder.name


def _text(path: Path) -> str:
    with contextlib.suppress(HostError):
        return read_text(path)
    return ""
