"""A process that sees nothing of the machine but the access kit and the files it is to serve. Runs as a program:

    python -m kaalia.transfer.cell /var/lib/kaalia/transfer/C.7001/cell.json

Reads what to show, makes it the whole world of its child (own mounts, processes, and no network), gives up all rights
but those over files, and becomes the program that was named. Ends with its code. Standard input and output are the
program's: of a door the connection.
"""

import json
import os
import select
import signal
import stat
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from kaalia.host import confine, mounts
from kaalia.host.process import forked

STAGE = "/tmp"  # noqa: S108 its own
"""Where the new root is put together, seen by this process only; every system has it."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
FAILED = 70
"""Exit code: the cell could not be made (sysexits.h: EX_SOFTWARE)."""
RIGHTS = (
    *(confine.CHOWN, confine.DAC_OVERRIDE, confine.DAC_READ_SEARCH, confine.FOWNER, confine.FSETID),
    *(confine.SET_GID, confine.SET_UID, confine.CHROOT),
)
"""To keep and restore owners and modes of any file, and what sshd and rsync want to give up more."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of this machine, and where the cell sees it. `process`: in whose mounts `source` is found."""

    source: str
    target: str
    is_read_only: bool = True
    runs_programs: bool = False
    process: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """`files`: small ones that are made, by path. `argv[0]` is a path inside the cell."""

    binds: tuple[Bind, ...]
    files: Mapping[str, str]
    folders: tuple[str, ...]
    argv: tuple[str, ...]
    env: Mapping[str, str]
    watched: tuple[int, ...] = ()
    """Processes without which the cell has no right to go on: it is killed when one of them ends."""


def encode(cell: Cell) -> str:
    return json.dumps(asdict(cell))


def decode(text: str) -> Cell:
    raw: dict[str, Any] = json.loads(text)
    binds = tuple(Bind(**one) for one in raw["binds"])
    return Cell(binds, raw["files"], tuple(raw["folders"]), tuple(raw["argv"]), raw["env"], tuple(raw["watched"]))


def main() -> None:
    cell = decode(Path(sys.argv[1]).read_text())
    try:
        watched = [os.pidfd_open(one) for one in cell.watched]
        mounts.own_mounts()
        confine.alone()
    except OSError as error:
        sys.exit(f"cannot make the cell: {error}")
    sys.exit(_outlived(forked(lambda: become(cell)), watched))


def _outlived(child: int, watched: list[int]) -> int:
    """Wait for the child, or for the end of what it must not outlive; its exit code."""
    for descriptor in (0, 1):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)  # the connection is the child's alone
    handle = os.pidfd_open(child)
    ready, _, _ = select.select([handle, *watched], [], [])
    if handle not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def become(cell: Cell) -> NoReturn:
    try:
        confine.die_with_parent(signal.SIGKILL)
        # What is shown may lie below the stage, which is about to hide it.
        shown = [(bind, _taken(bind)) for bind in (*cell.binds, *map(_device, DEVICES))]
        _furnish(cell)
        for bind, tree in shown:
            _show(bind, tree)
        mounts.settle_in(STAGE)
        mounts.limit_path("/", mounts.READ_ONLY | mounts.NO_SUID | mounts.NO_DEVICES)
        confine.bound_rights(*RIGHTS)
        os.umask(0o022)
        os.execve(cell.argv[0], cell.argv, dict(cell.env))  # noqa: S606 an argument list, and it stays that way
    except OSError as error:
        os.write(2, f"cannot make the cell: {error}\n".encode())
    os._exit(FAILED)


def _taken(bind: Bind) -> int:
    if bind.process is None:
        return mounts.taken(bind.source)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{bind.process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    mounts.enter(theirs)
    try:
        return mounts.taken(bind.source, recursive=True)
    finally:
        mounts.enter(own)
        os.close(theirs)
        os.close(own)


def _furnish(cell: Cell) -> None:
    mounts.mount("tmpfs", STAGE, "tmpfs", mounts.NO_SUID | mounts.NO_DEVICES, "size=4m,mode=0755")
    for folder in cell.folders:
        _inside(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for path, text in cell.files.items():
        _inside(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _inside(path).write_text(text)
        _inside(path).chmod(0o644)


def _show(bind: Bind, tree: int) -> None:
    target = _inside(bind.target)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        target.mkdir(mode=0o755, exist_ok=True)
    else:
        target.touch(mode=0o600)
    place = os.open(target, os.O_PATH | os.O_CLOEXEC)
    mounts.put(tree, place)
    if bind.target in DEVICES:
        return
    flags = mounts.NO_SUID | mounts.NO_DEVICES
    flags |= mounts.READ_ONLY if bind.is_read_only else 0
    mounts.limit_path(str(target), flags if bind.runs_programs else flags | mounts.NO_PROGRAMS)


def _device(path: str) -> Bind:
    return Bind(path, path, is_read_only=False)


def _inside(path: str) -> Path:
    return Path(STAGE) / path.lstrip("/")


if __name__ == "__main__":
    main()
