"""`ls`, as far as renters need it. Opens folders only, and accounts of /etc/passwd and /etc/group for their names."""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kaalia.contracts.command import Command
from kaalia.runtime.view.output import DEPTH_MAX, TOO_DEEP, Output, human, shown

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_NUMBER = re.compile(r"[0-9]{1,10}")
"""Of an account or a group."""
_ACCOUNTS_MAX_BYTES = 1024**2
_ENTRIES_MAX = 200_000
"""Of one folder: they are sorted in memory."""
_MARKS = {stat.S_IFDIR: "/", stat.S_IFLNK: "@", stat.S_IFIFO: "|", stat.S_IFSOCK: "="}
_LONG = frozenset("lgno")
"""Each of these letters asks for the long form."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    found: os.stat_result
    target: str = ""


class Listing:
    """One `ls`."""

    def __init__(self, command: Command, out: Output) -> None:
        self._command = command
        self._options = command.options
        self._out = out
        self._is_long = bool(_LONG & command.options)
        by_name = self._is_long and "n" not in command.options
        self._users = _names("/etc/passwd") if by_name else {}
        self._groups = _names("/etc/group") if by_name else {}

    def run(self) -> None:
        files, folders = [], []
        for path in self._command.paths:
            try:
                entry = self._entry(path, None, path)
            except OSError as error:
                self._out.failed("ls", "access", path, error)
                continue
            if "d" not in self._options and self._is_folder(path, entry):
                folders.append(path)
            else:
                files.append(entry)
        self._print(self._sorted(files))
        has_titles = len(self._command.paths) > 1 or "R" in self._options
        for number, folder in enumerate(folders):
            if number or files:
                self._out.line("")
            self._folder(folder, has_title=has_titles)

    def _is_folder(self, path: str, entry: _Entry) -> bool:
        if stat.S_ISLNK(entry.found.st_mode) and (not self._is_long or path.endswith("/")):
            return Path(path).is_dir()
        return stat.S_ISDIR(entry.found.st_mode)

    def _folder(self, path: str, *, has_title: bool, depth: int = 0) -> None:
        if depth > DEPTH_MAX:
            self._out.failed("ls", "open directory", path[:200], TOO_DEEP)
            return
        try:
            entries = self._read(path, follow=not depth)
        except OSError as error:
            self._out.failed("ls", "open directory", path, error)
            return
        if has_title:
            self._out.line(f"{shown(path)}:")
        if self._is_long or "s" in self._options:
            blocks = sum(entry.found.st_blocks for entry in entries) * 512
            self._out.line(f"total {human(blocks) if 'h' in self._options else blocks // 1024}")
        self._print(entries)
        if "R" in self._options:
            for entry in entries:
                if stat.S_ISDIR(entry.found.st_mode) and entry.name not in (".", ".."):
                    self._out.line("")
                    self._folder(f"{path.rstrip('/')}/{entry.name}", has_title=True, depth=depth + 1)

    def _read(self, path: str, *, follow: bool) -> list[_Entry]:
        handle = os.open(path, _FOLDER | (0 if follow else os.O_NOFOLLOW))
        try:
            dots = [".", ".."] if "a" in self._options else []
            names = [*dots, *(name for name in self._names_in(handle) if self._is_listed(name))]
            return self._sorted(found for name in names if (found := self._found(name, handle)) is not None)
        finally:
            os.close(handle)

    def _names_in(self, handle: int) -> list[str]:
        names: list[str] = []
        with os.scandir(handle) as entries:
            for entry in entries:
                self._out.tick()
                if len(names) >= _ENTRIES_MAX:
                    self._out.failed("ls", "list more than", str(_ENTRIES_MAX), "the folder has more entries")
                    break
                names.append(entry.name)
        return names

    def _is_listed(self, name: str) -> bool:
        return not name.startswith(".") or bool({"a", "A"} & self._options)

    def _found(self, name: str, handle: int) -> _Entry | None:
        self._out.tick()
        try:
            return self._entry(name, handle, name)
        except FileNotFoundError:
            return None  # it was removed meanwhile
        except OSError as error:
            self._out.failed("ls", "access", name, error)
            return None

    def _entry(self, path: str, handle: int | None, name: str) -> _Entry:
        found = os.lstat(path, dir_fd=handle)
        is_link = self._is_long and stat.S_ISLNK(found.st_mode)
        return _Entry(name, found, os.readlink(path, dir_fd=handle) if is_link else "")

    def _sorted(self, entries: Iterable[_Entry]) -> list[_Entry]:
        found = list(entries)
        if "U" in self._options:
            return found
        found.sort(key=lambda entry: os.fsencode(entry.name))
        if "S" in self._options:
            found.sort(key=lambda entry: -entry.found.st_size)
        elif "t" in self._options:
            found.sort(key=lambda entry: -entry.found.st_mtime_ns)
        return found[::-1] if "r" in self._options else found

    def _print(self, entries: list[_Entry]) -> None:
        rows = [self._row(entry) for entry in entries]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row, entry in zip(rows, entries, strict=True):
            cells = [
                cell.ljust(width) if number in self._left else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            arrow = f" -> {shown(entry.target)}" if entry.target else ""
            self._out.line(" ".join([*cells, f"{shown(entry.name)}{self._mark(entry.found.st_mode)}{arrow}"]))

    @property
    def _left(self) -> frozenset[int]:
        """Columns of words: mode, owner and group."""
        first = len({"i", "s"} & self._options)
        owners = (not {"g"} & self._options) + (not {"o"} & self._options)
        return frozenset({first, *range(first + 2, first + 2 + owners)})

    def _row(self, entry: _Entry) -> list[str]:
        found, options = entry.found, self._options
        row = [str(found.st_ino)] if "i" in options else []
        if "s" in options:
            row.append(human(found.st_blocks * 512) if "h" in options else str(found.st_blocks // 2))
        if not self._is_long:
            return row
        row += [stat.filemode(found.st_mode), str(found.st_nlink)]
        if "g" not in options:
            row.append(self._users.get(found.st_uid, str(found.st_uid)))
        if "o" not in options:
            row.append(self._groups.get(found.st_gid, str(found.st_gid)))
        if stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
            size = f"{os.major(found.st_rdev)},{os.minor(found.st_rdev)}"
        else:
            size = human(found.st_size) if "h" in options else str(found.st_size)
        return [*row, size, _time(found.st_mtime)]

    def _mark(self, mode: int) -> str:
        if "F" in self._options:
            is_program = stat.S_ISREG(mode) and bool(mode & 0o111)
            return "*" if is_program else _MARKS.get(stat.S_IFMT(mode), "")
        return "/" if "p" in self._options and stat.S_ISDIR(mode) else ""


def _time(epoch_s: float) -> str:
    """UTC: the zone of the machine is not the renter's."""
    try:
        return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return "?"


def _names(path: str) -> dict[int, str]:
    """Names by number, of a file such as /etc/passwd. Nothing when it is no plain file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return {}
        text = os.read(handle, _ACCOUNTS_MAX_BYTES).decode(errors="replace")
    except OSError:
        return {}
    finally:
        os.close(handle)
    lines = [line.split(":") for line in text.splitlines()]
    return {int(line[2]): shown(line[0]) for line in lines if len(line) > 2 and _NUMBER.fullmatch(line[2])}
