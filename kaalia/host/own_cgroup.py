"""A cgroup of its own for a child, below the daemon's: all that the child ever started is found there, and killed.

Only of the kernel's second version, and where this process may make one; elsewhere the child's process group must do.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_PROC = Path("/proc")
_OOM_FIRST = "1000"
_MEMBERS = "cgroup.procs"


class OwnCgroup:
    """Its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def around(cls, pid: int, name: str, root: Path = ROOT, own: Path = _OWN, proc: Path = _PROC) -> Self | None:
        """Put this process into a new one; None: it cannot be made here. When memory is short the child goes first.

        Blocks for some milliseconds, as all of this.
        """
        with suppress(OSError):
            (proc / str(pid) / "oom_score_adj").write_text(_OOM_FIRST)
        folder = None
        try:
            place = next(line for line in own.read_text().splitlines() if line.startswith("0::")).removeprefix("0::")
            parent = root / place.lstrip("/")
            if not (parent / _MEMBERS).exists():
                return None  # with the first version there is a mere folder, which would keep what is written into it
            folder = parent / f"kaalia-{name}-{pid}"
            folder.mkdir()
            (folder / _MEMBERS).write_text(str(pid))
        except (OSError, StopIteration):
            if folder is not None:
                with suppress(OSError):
                    folder.rmdir()
            return None
        return cls(folder)

    def kill(self) -> None:
        """Everything in it, at once. Kernels before 5.14 cannot: then each process by its number."""
        switch = self._folder / "cgroup.kill"
        try:
            with switch.open("r+") as file:  # never made where the kernel has none
                file.write("1")
        except OSError:
            for pid in self.members():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def members(self) -> list[int]:
        with suppress(OSError):
            return [int(line) for line in (self._folder / "cgroup.procs").read_text().split()]
        return []

    def remove(self) -> None:
        """Once it is empty; one that a stuck process keeps stays until that is gone."""
        with suppress(OSError):
            self._folder.rmdir()
