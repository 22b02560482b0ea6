"""What is mounted where on this machine, and what its fstab says should be.

Of process 1: the daemon itself may see other mounts, since systemd hides and protects folders from it.
`root` is the file system that holds /proc and /etc; tests give their own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kaalia.host.kernel import read_text

ROOT = Path("/")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """`source`: a device, a pool, a server's path. `is_read_only`: as mounted, or since the kernel made it so.

    `device`: as the kernel's log names it, such as dm-3 of /dev/mapper/data; "": it is no device.
    """

    point: str
    source: str
    kind: str
    is_read_only: bool
    device: str = ""


def mounts(root: Path = ROOT) -> tuple[Mount, ...]:
    """In the order in which they were mounted. Raises HostError `unreadable`."""
    lines = read_text(root / "proc/1/mountinfo").splitlines()
    return tuple(one for line in lines if (one := _mount(line, root)) is not None)


def holding(path: str, known: Iterable[Mount]) -> Mount | None:
    """The mount that a path lies in: the deepest, of equals the last."""
    best: Mount | None = None
    for one in known:
        if _is_within(path, one.point) and (best is None or len(one.point) >= len(best.point)):
            best = one
    return best


def wanted_points(path: str, root: Path = ROOT) -> tuple[str, ...]:
    """The mount points of fstab that `path` lies in, without `/` and what is mounted by hand. Raises HostError."""
    found = []
    for line in read_text(root / "etc/fstab").splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) >= 4 and fields[1].startswith("/") and "noauto" not in fields[3].split(","):
            point = _plain(fields[1]).rstrip("/")
            if point and _is_within(path, point):
                found.append(point)
    return tuple(found)


def _mount(line: str, root: Path) -> Mount | None:
    """`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: proc_pid_mountinfo(5)."""
    head, separator, tail = line.partition(" - ")
    before, after = head.split(), tail.split()
    if not separator or len(before) < 6 or len(after) < 2:
        return None
    options = {*before[5].split(","), *(after[2].split(",") if len(after) > 2 else ())}
    source = _plain(after[1])
    return Mount(_plain(before[4]), source, after[0], "ro" in options, _device(source, root))


def _device(source: str, root: Path) -> str:
    if not source.startswith("/dev/"):
        return ""
    path = root / source.removeprefix("/")
    return path.readlink().name if path.is_symlink() else path.name


def _is_within(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _plain(text: str) -> str:
    """Spaces and the like stand there as octal numbers."""
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
