"""The file system, device and drive behind a path.

Sizes come from `df` in a child process: asking a dead network file system blocks whoever asks, so it is not the daemon.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable
from kaalia.host.process import run

ROOT = Path("/")
DF_TIMEOUT_S = 10.0
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True, slots=True)
class FileSystem:
    """`device` is what is mounted: /dev/nvme0n1p2, or a pool, a server path or `overlay`. `free_bytes`: without root's
    reserve."""

    device: str
    kind: str
    total_bytes: int
    free_bytes: int


async def filesystem(path: Path) -> FileSystem:
    """The file system that holds `path`. Raises HostError `command_failed` (no such path), `command_timeout`."""
    argv = ["df", "--block-size=1", "--output=source,fstype,size,avail", "--", str(path)]
    result = await run(argv, DF_TIMEOUT_S, env=_ENVIRONMENT, check=True)
    words = result.stdout.strip().splitlines()[-1].rsplit(maxsplit=3)  # only the source may hold blanks
    if len(words) != 4 or not (words[2].isdecimal() and words[3].isdecimal()):
        raise unreadable(f"the file system of {path}", f"df answered {result.stdout.strip()!r}")
    return FileSystem(words[0], words[1], int(words[2]), int(words[3]))


@dataclass(frozen=True, slots=True)
class Room:
    """What is left where a path lies. `mounted_at` tells two paths on one file system. Inodes 0: not a fixed number."""

    mounted_at: str
    total_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


async def rooms(paths: Iterable[Path]) -> tuple[Room, ...]:
    """One for each path, in one child. Raises HostError `command_failed`, `command_timeout`, `unreadable`."""
    argv = ["df", "--block-size=1", "--output=target,size,avail,itotal,iavail", "--", *map(str, paths)]
    result = await run(argv, DF_TIMEOUT_S, env=_ENVIRONMENT, check=True)
    rows = [line.rsplit(maxsplit=4) for line in result.stdout.splitlines()[1:]]
    if any(len(row) != 5 for row in rows):
        raise unreadable("how much room is left", f"df answered {result.stdout.strip()[:300]!r}")
    return tuple(Room(row[0], *(int(word) if word.isdecimal() else 0 for word in row[1:])) for row in rows)


async def mount_point(path: Path) -> str:
    """Where the file system of `path` is mounted. Raises HostError `command_failed`, `command_timeout`."""
    argv = ["df", "--output=target", "--", str(path)]
    result = await run(argv, DF_TIMEOUT_S, env=_ENVIRONMENT, check=True)
    return result.stdout.splitlines()[-1].strip()


async def allocated_bytes(folder: str, timeout_s: float) -> int:
    """What the files below `folder` take of their file system, by `du`. Raises HostError."""
    argv = ["du", "--summarize", "--one-file-system", "--block-size=1", "--", folder]
    result = await run(argv, timeout_s, env=_ENVIRONMENT)
    size = result.stdout.split("\t")[0]
    if not size.isdecimal():
        raise unreadable(f"the size of {folder}", (result.stderr or result.stdout)[:200])
    return int(size)


def drive_model(device: str, root: Path = ROOT) -> str:
    """The drive's model, such as `Samsung SSD 980 PRO 2TB`; RAID and volumes name each distinct model behind them.

    Raises HostError `unreadable` with the reason: not a local drive, a virtual one, or one that does not tell.
    """
    if not device.startswith("/dev/"):
        raise unreadable(f"the drive behind {device}", "it is not a local block device")
    folder = root / "sys/class/block" / _resolved(device, root).name
    if not folder.is_dir():
        raise unreadable(f"the drive behind {device}", "the kernel knows no such block device")
    models = sorted(set(_models(folder.resolve(), depth=0)))
    if not models:
        raise unreadable(f"the model of {device}", "the drive does not tell it (a virtual one?)")
    return ", ".join(models)


def _resolved(device: str, root: Path) -> Path:
    """/dev/mapper/name is a link to /dev/dm-3."""
    path = root / device.removeprefix("/")
    return path.resolve() if path.is_symlink() else path


def _models(folder: Path, depth: int) -> list[str]:
    """Models of the drives under a device: through its slaves (RAID, LVM, crypt), or the disk of a partition."""
    if depth > 8:
        return []
    slaves = sorted((folder / "slaves").iterdir()) if (folder / "slaves").is_dir() else []
    if slaves:
        return [model for slave in slaves for model in _models(slave.resolve(), depth + 1)]
    if (folder / "partition").exists():
        return _models(folder.parent, depth + 1)
    try:
        model = read_text(folder / "device/model")
    except HostError:
        return []
    return [model] if model else []
