"""How rsync is called to copy between holders, what it says meanwhile, and what its end means. Pure."""

import re
from dataclasses import dataclass

from kaalia.errors import Problem
from kaalia.model.copying import CopyOrder
from kaalia.transfer import plan, sshd
from kaalia.transfer.plan import Route
from kaalia.units import format_bytes

SOURCE, TARGET = "/source", "/target"
BRIDGE = "/etc/bridge"
"""Takes the place of ssh, which runs elsewhere: joins rsync to the cell's line."""
_BUSYBOX = f"{sshd.KIT}/sbin/busybox"
BRIDGE_TEXT = f"exec 5<&0\n{_BUSYBOX} cat <&5 >&{plan.LINE_OUT} &\nexec {_BUSYBOX} cat <&{plan.LINE_IN}\n"
"""Like ssh it ends when the far end does: rsync waits for that."""
_COMMON = (sshd.RSYNC, "-a", "--numeric-ids", "--partial", "--info=progress2", "--no-inc-recursive")
_PROGRESS = re.compile(r"\s*([\d,]+)\s+(\d+)%\s+(\S+/s)\b")
_VANISHED = 24
"""Files went while they were copied: they are not missed."""
_NO_SPACE = ("No space left on device", "Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Progress:
    moved_bytes: int
    percent: int
    speed: str

    def __str__(self) -> str:
        return f"{self.percent} %, {format_bytes(self.moved_bytes)}, {self.speed}"


def argv(order: CopyOrder) -> tuple[str, ...]:
    """Up to the source."""
    if order.away is None:
        return (*_COMMON, "--whole-file", "--")
    return (*_COMMON, "--mkpath", "-e", f"{_BUSYBOX} sh {BRIDGE}", "--")


def words_after(order: CopyOrder) -> tuple[str, ...]:
    """Behind the source."""
    return () if order.away is None else (f"x::{order.target.holder}{order.target.path}",)


def route(order: CopyOrder) -> Route:
    if order.away is not None:
        return Route(SOURCE, order.source.path)
    return Route(SOURCE, order.source.path, TARGET, order.target.path)


def progress(line: str) -> Progress | None:
    found = _PROGRESS.match(line)
    return None if found is None else Progress(int(found[1].replace(",", "")), int(found[2]), found[3])


def problem(order: CopyOrder, exit_code: int, said: str) -> Problem | None:
    """What went wrong; None: all is copied. `said`: its complaints."""
    place = f"{order.target.holder}:{order.target.path}"
    if exit_code in (0, _VANISHED):
        return None
    if any(sign in said for sign in _NO_SPACE):
        message = f"cannot copy all to {place}: the disk space of {order.target.holder} is used up"
        return Problem("copy_disk_full", message, "free space there, then copy again: it goes on where it was", said)
    if exit_code == plan.SOURCE_MISSING:
        message = f"cannot copy {order.source.path} of {order.source.holder}: it is not there"
        return Problem("copy_source_missing", message, "look with `vastai execute ID 'ls /'`", said)
    if exit_code == plan.TARGET_UNUSABLE:
        message = f"cannot copy to {place}: a part of this path is no folder"
        return Problem("copy_target_unusable", message, "name another folder", said)
    message = f"cannot copy all to {place}: rsync ended with {exit_code}"
    return Problem("copy_failed", message, "copy again: it goes on where it was", said)
