"""`du`: what folders take of the disk. Opens folders only; a file with several names counts once."""

import os
import stat
from collections.abc import Iterator

from kaalia.contracts.command import Command
from kaalia.runtime.view.output import DEPTH_MAX, TOO_DEEP, Output, human, shown

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Usage:
    """One `du`."""

    def __init__(self, command: Command, out: Output) -> None:
        self._command = command
        self._options = command.options
        self._out = out
        self._shown_depth = 0 if "s" in command.options else command.depth
        self._seen: set[tuple[int, int]] = set()
        self._device = 0

    def run(self) -> None:
        total = 0
        for path in self._command.paths:
            try:
                self._device = os.lstat(path).st_dev
                total += self._count(path, path.rstrip("/") or "/", None, 0)
            except OSError as error:
                self._out.failed("du", "access", path, error)
        if "c" in self._options:
            self._line(total, "total")

    def _count(self, name: str, path: str, parent: int | None, depth: int) -> int:
        """Bytes of one entry and all below it. `path`: as it is printed. Raises OSError."""
        self._out.tick()
        found = os.lstat(name, dir_fd=parent)
        if "x" in self._options and found.st_dev != self._device:
            return 0
        size = found.st_size if "b" in self._options else found.st_blocks * 512
        if not stat.S_ISDIR(found.st_mode):
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in self._seen:
                    return 0
                self._seen.add((found.st_dev, found.st_ino))
            if "a" in self._options or depth == 0:
                self._show(size, path, depth)
            return size
        size += self._below(name, path, parent, depth)
        self._show(size, path, depth)
        return size

    def _below(self, name: str, path: str, parent: int | None, depth: int) -> int:
        if depth >= DEPTH_MAX:
            self._out.failed("du", "read directory", path[:200], TOO_DEEP)
            return 0
        try:
            handle = os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            self._out.failed("du", "read directory", path, error)
            return 0
        size = 0
        try:
            for one in names_in(handle):
                try:
                    size += self._count(one, f"{path.rstrip('/')}/{one}", handle, depth + 1)
                except FileNotFoundError:
                    continue  # it was removed meanwhile
                except OSError as error:
                    self._out.failed("du", "access", f"{path}/{one}", error)
        finally:
            os.close(handle)
        return size

    def _show(self, size: int, path: str, depth: int) -> None:
        if self._shown_depth is None or depth <= self._shown_depth:
            self._line(size, path)

    def _line(self, size: int, path: str) -> None:
        unit = 1024**2 if "m" in self._options else 1 if "b" in self._options else 1024
        text = human(size) if "h" in self._options else str(-(-size // unit))
        self._out.line(f"{text}\t{shown(path)}")


def names_in(handle: int) -> Iterator[str]:
    """Of an open folder, as they are read: there may be many millions."""
    with os.scandir(handle) as entries:
        for entry in entries:
            yield entry.name
