"""What drives tell of their own health, by `smartctl --json` of smartmontools, where it is installed.

It asks the drive itself, which takes rights that the daemon's sandbox does not have, and up to seconds: seldom, and in
children outside of it. A drive that sleeps is left asleep.
"""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kaalia.errors import HostError
from kaalia.host import outside
from kaalia.host.kernel import unreadable
from kaalia.host.process import run

TIMEOUT_S = 30.0
ALL_S = 60.0
"""For all drives: behind a controller that hangs there may be dozens, and others wait for what the rest tell."""
AT_ONCE = 4
_NOT_OPENED = 0b11
"""Bits of smartctl's exit code: wrong arguments, or the device could not be opened (smartctl(8), EXIT STATUS)."""
_PENDING, _UNCORRECTABLE = 197, 198
_DRIVES_MAX = 64
_LIMITS = (
    *("TasksMax=16", "MemoryMax=256M", "ProtectSystem=strict", "PrivateNetwork=yes", "NoNewPrivileges=yes"),
    "RuntimeMaxSec=60",
)


@dataclass(frozen=True, slots=True)
class Drive:
    """None: the drive does not tell it. `warning`: NVMe's critical warning, as its bits.

    `device`: as smartctl is asked for it; of several behind one RAID controller with its place there, such as
    `/dev/bus/0 -d megaraid,8`.
    """

    device: str
    model: str = ""
    has_passed: bool | None = None
    warning: int = 0
    used_percent: int | None = None
    lost_sectors: int = 0
    """That could not be read, or wait to be replaced."""
    temperature_c: int | None = None
    power_on_hours: int | None = None
    silent: str = ""
    """Why it could not be heard: it gave no answer in time, so that nothing else is known of it."""


async def drives(all_s: float = ALL_S) -> tuple[Drive, ...] | None:
    """Every drive that tells something, as far as they answer within `all_s`. None: smartctl is not installed.

    Raises HostError `unreadable`.
    """
    if await asyncio.to_thread(shutil.which, "smartctl", path=outside.ENVIRONMENT["PATH"]) is None:
        return None
    first = (*await outside.prefix(*_LIMITS), "smartctl", "--json")
    try:
        scan = await run([*first, "--scan"], min(TIMEOUT_S, all_s), env=outside.ENVIRONMENT)
    except HostError as error:
        raise unreadable("the health of drives", error.problem.message) from error
    gate, loop = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop()
    until_s = loop.time() + all_s

    async def ask(place: tuple[str, str], called: str) -> Drive | str | None:
        async with gate:
            return await _asked(first, place, called, min(TIMEOUT_S, until_s - loop.time()))

    told = await asyncio.gather(*(ask(place, called) for place, called in _listed(scan.stdout).items()))
    found = tuple(one for one in told if isinstance(one, Drive))
    refused = [one for one in told if isinstance(one, str)]
    if refused and not found:
        raise unreadable("the health of drives", refused[-1])
    return found


def _listed(scan: str) -> dict[tuple[str, str], str]:
    """Device and kind of each drive, with what it is called."""
    places = [(str(one["name"]), str(one["type"])) for one in _document(scan).get("devices", [])[:_DRIVES_MAX]]
    names = Counter(name for name, _ in places)
    return {(name, kind): name if names[name] == 1 else f"{name} -d {kind}" for name, kind in places}


async def _asked(first: tuple[str, ...], place: tuple[str, str], name: str, timeout_s: float) -> Drive | str | None:
    """What it tells; why it tells nothing; None: it sleeps, or has nothing to tell. `name`: what it is called."""
    device, kind = place
    if timeout_s <= 0:
        return Drive(name, silent="other drives gave no answer, and took all the time that there was")
    try:
        argv = (*first, "-i", "-H", "-A", "-n", "standby", "-d", kind, device)
        told = await run(argv, timeout_s, env=outside.ENVIRONMENT)
    except HostError as error:
        is_silent = error.code in ("command_timeout", "command_stuck")
        return Drive(name, silent=error.problem.message) if is_silent else error.problem.message
    document = _document(told.stdout)
    try:
        drive = parse(name, document)
    except (ValueError, TypeError, AttributeError) as error:
        return f"cannot understand what smartctl says of {name}: {error}"
    if drive is None and told.exit_code & _NOT_OPENED and "STANDBY" not in told.stdout:
        return _why(document) or f"smartctl ended with {told.exit_code}"
    return drive


def parse(device: str, told: Mapping[str, Any]) -> Drive | None:
    """One answer of smartctl; None: there is nothing of the drive's health in it."""
    status, nvme = told.get("smart_status"), told.get("nvme_smart_health_information_log")
    table = (told.get("ata_smart_attributes") or {}).get("table") or ()
    if not status and not nvme and not table:
        return None
    nvme = nvme or {}
    # Of each the low 32 bits count; some makers keep other things above.
    raw = {one.get("id"): int((one.get("raw") or {}).get("value", 0)) & 0xFFFFFFFF for one in table}
    used = nvme.get("percentage_used", (told.get("endurance_used") or {}).get("current_percent"))
    return Drive(
        device,
        str(told.get("model_name", "")),
        (status or {}).get("passed"),
        int(nvme.get("critical_warning", 0)),
        None if used is None else int(used),
        int(nvme.get("media_errors", 0)) + raw.get(_PENDING, 0) + raw.get(_UNCORRECTABLE, 0),
        _number(told, "temperature", "current"),
        _number(told, "power_on_time", "hours"),
    )


def _number(told: Mapping[str, Any], part: str, name: str) -> int | None:
    value = (told.get(part) or {}).get(name)
    return None if value is None else int(value)


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _why(document: Mapping[str, Any]) -> str:
    messages = (document.get("smartctl") or {}).get("messages") or ()
    return "; ".join(str(one.get("string", "")) for one in messages)[:300]
