"""Disks of the machine that a proof may break: one for the daemon's state, and one that is expected and holds nothing.

Both are in memory: their size and their number of files are what the proof says at any time.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kaalia.units import GIB

ROOMY_BYTES = 4 * GIB
"""Promised, not taken: a disk in memory takes what is written to it."""
ROOMY_INODES = 1_000_000
FILES = 2_000
"""That the state's disk holds besides: few in a hundred are still some."""


@dataclass(frozen=True)
class Disks:
    state: Path
    expected: Path

    def leave_bytes(self, left: int) -> None:
        """Of the state's disk."""
        used = os.statvfs(self.state)
        size = (used.f_blocks - used.f_bfree) * used.f_frsize + left
        _run("mount", "-o", f"remount,size={size}", str(self.state))

    def leave_inodes(self, left: int) -> None:
        used = os.statvfs(self.state)
        _run("mount", "-o", f"remount,nr_inodes={used.f_files - used.f_ffree + left}", str(self.state))

    def restore(self) -> None:
        """As much room as at first."""
        _run("mount", "-o", f"remount,size={ROOMY_BYTES},nr_inodes={ROOMY_INODES}", str(self.state))

    def mount_expected(self) -> None:
        _run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(self.expected))

    def unmount_expected(self) -> None:
        _run("umount", str(self.expected))


@contextmanager
def disks(home: Path) -> Iterator[Disks]:
    """Mounted before anything starts there."""
    made = Disks(home / "stack" / "state", home / "expected")
    made.expected.mkdir(parents=True)
    made.state.mkdir(parents=True, mode=0o700)
    _run(
        "mount", "-t", "tmpfs", "-o", f"size={ROOMY_BYTES},nr_inodes={ROOMY_INODES},mode=700", "tmpfs", str(made.state)
    )
    made.mount_expected()
    (made.state / "ballast").mkdir()
    for number in range(FILES):
        (made.state / "ballast" / str(number)).touch()
    try:
        yield made
    finally:
        for folder in (made.state, made.expected):
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def cover_read_only(folder: Path) -> None:
    """The same folder, mounted over itself, and nothing new can be written there. What is open stays so."""
    _run("mount", "--bind", str(folder), str(folder))
    _run("mount", "-o", "remount,ro,bind", str(folder))


def uncover(folder: Path) -> None:
    _run("umount", str(folder))


def fill(folder: Path, left: int) -> Path:
    """A file that takes the room and is never written. Raises OSError."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)
    _commit(folder)
    return ballast


def empty(ballast: Path) -> None:
    folder = ballast.parent
    ballast.unlink()
    _commit(folder)


def _commit(folder: Path) -> None:
    """btrfs counts room with its next commit."""
    _run("sync", "--file-system", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
