"""Whole local disks: what sysfs tells of each, and what smartctl tells of its health.

`root` holds /sys; tests give their own. smartctl reads counters, it starts no test, and wakes no disk that sleeps.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable
from kaalia.host.process import run
from kaalia.model.inventory import Drive

ROOT = Path("/")
SMART_TIMEOUT_S = 10.0
_SECTOR_BYTES = 512
"""In which sysfs counts sizes, whatever the disk's own sectors are."""
_NOT_DRIVES = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "drbd", "zd")
_WEAR = {"Media_Wearout_Indicator", "Wear_Leveling_Count", "SSD_Life_Left", "Percent_Lifetime_Remain"}
"""SATA names of an attribute whose normalized value falls from 100 to 0."""


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


async def with_health(drive: Drive) -> Drive:
    """Raises HostError `command_missing` (no smartctl), `command_timeout`, `unreadable` with smartctl's own words."""
    argv = ["smartctl", "--json=c", "--nocheck=standby", "--health", "--attributes", f"/dev/{drive.name}"]
    result = await run(argv, SMART_TIMEOUT_S, env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    return told(drive, result.stdout)


def told(drive: Drive, answer: str) -> Drive:
    """`drive` with what smartctl's JSON says. Raises HostError `unreadable`."""
    try:
        said: dict[str, Any] = json.loads(answer)
        messages = said.get("smartctl", {}).get("messages", [])
        if "smart_status" not in said and "nvme_smart_health_information_log" not in said:
            words = "; ".join(str(one.get("string")) for one in messages) or "it tells nothing"
            raise unreadable(f"the health of {drive.name}", words)
        return replace(
            drive,
            passed=_get(said, "smart_status", "passed"),
            wear_percent=_wear(said),
            temperature_c=_get(said, "temperature", "current"),
            power_on_hours=_get(said, "power_on_time", "hours"),
            media_errors=_get(said, "nvme_smart_health_information_log", "media_errors"),
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise unreadable(f"the health of {drive.name}", f"smartctl answered {answer[:100]!r}") from error


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


def _wear(said: dict[str, Any]) -> int | None:
    used = _get(said, "nvme_smart_health_information_log", "percentage_used")
    if used is not None:
        return int(used)
    for one in _get(said, "ata_smart_attributes", "table") or ():
        if one.get("name") in _WEAR:
            return max(0, 100 - int(one["value"]))
    return None


def _get(said: dict[str, Any], *names: str) -> Any:
    value: Any = said
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(path: Path) -> str:
    with contextlib.suppress(HostError):
        return read_text(path)
    return ""
