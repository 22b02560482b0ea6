"""Software RAID as the kernel tells it. `root` is the file system that holds /proc; tests give their own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable

ROOT = Path("/")
_HEAD = re.compile(
    r"(?P<name>md\S*) : (?P<state>active|inactive|broken)(?: \([a-z-]+\))*(?: (?P<level>raid\d+))?(?P<rest>.*)"
)
_DISKS = re.compile(r"\[(?P<wanted>\d+)/(?P<present>\d+)\] \[[U_]+\]")
_CONTAINER = re.compile(r"\bsuper external:(?!/)")
"""Of the firmware's RAID (Intel VROC, DDF): what its arrays are cut from. It never is active; md(4), mdadm(8)."""
_SPARE = {"raid4": 1, "raid5": 1, "raid6": 2}
"""How many disks it may lose, md(4). A mirror may lose all but one; of raid10 it depends on which."""
_WORK = re.compile(r"(?:recovery|resync|reshape|check) ?= ?\s*(?P<percent>[0-9.]+)%")


@dataclass(frozen=True, slots=True)
class RaidArray:
    """`wanted` and `present` are disks; both 0 where the kind has no spare copy (raid0, linear).

    `is_lost`: it lacks more disks than its kind can do without.
    """

    name: str
    is_active: bool
    wanted: int = 0
    present: int = 0
    failed: tuple[str, ...] = ()
    rebuilt_percent: float | None = None
    is_lost: bool = False


def arrays(root: Path = ROOT) -> tuple[RaidArray, ...] | None:
    """Every array; None: this kernel has no software RAID loaded. Raises HostError `unreadable`."""
    path = root / "proc/mdstat"
    if not path.exists():
        return None
    try:
        return tuple(_arrays(read_text(path).splitlines()))
    except (HostError, ValueError) as error:
        raise unreadable("the RAID arrays", str(error)) from error


def _arrays(lines: list[str]) -> Iterator[RaidArray]:
    heads = [number for number, line in enumerate(lines) if _HEAD.match(line)]
    for number, following in zip(heads, [*heads, len(lines)][1:], strict=True):
        match = _HEAD.match(lines[number])
        assert match is not None
        text = "\n".join(lines[number:following])
        if _CONTAINER.search(text):
            continue
        disks, work = _DISKS.search(text), _WORK.search(text)
        wanted, present = (int(disks["wanted"]), int(disks["present"])) if disks else (0, 0)
        yield RaidArray(
            match["name"],
            match["state"] == "active",
            wanted,
            present,
            tuple(re.findall(r"(\S+)\[\d+\]\(F\)", match["rest"])),
            float(work["percent"]) if work else None,
            _is_lost(match["level"], wanted, present),
        )


def _is_lost(level: str | None, wanted: int, present: int) -> bool:
    if not wanted:
        return False
    spare = _SPARE.get(level or "")
    return not present or (spare is not None and wanted - present > spare)
