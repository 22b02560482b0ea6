"""`rm`: removes names, never what a symbolic link leads to. Refuses the root itself, `.` and `..`.

A folder's names go while they are read, so one of many millions takes no memory, and what one command did not finish
within its time the next one goes on with.
"""

import os
import stat

from kaalia.contracts.command import Command
from kaalia.runtime.view.output import DEPTH_MAX, TOO_DEEP, EnoughError, Output, shown
from kaalia.runtime.view.usage import names_in

GOES_ON = "[{} names were removed so far; the same command again goes on]"
_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Removal:
    """One `rm`."""

    def __init__(self, command: Command, out: Output) -> None:
        self._command = command
        self._options = command.options
        self._out = out
        self._removed = 0

    def run(self) -> None:
        try:
            self._run()
        except EnoughError:
            self._out.notice(GOES_ON.format(self._removed))
            raise

    def _run(self) -> None:
        for path in self._command.paths:
            try:
                self._remove_named(path)
            except FileNotFoundError as error:
                if "f" not in self._options:
                    self._out.failed("rm", "remove", path, error)
            except OSError as error:
                self._out.failed("rm", "remove", path, error)

    def _remove_named(self, path: str) -> None:
        """Raises OSError."""
        folder, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            self._out.failed("rm", "remove", path, "it is the root, '.' or '..'")
            return
        parent = os.open(folder or ("/" if path.startswith("/") else "."), _PARENT)
        try:
            mode = os.lstat(name, dir_fd=parent).st_mode
            if path.endswith("/") and not stat.S_ISDIR(mode):
                self._out.failed("rm", "remove", path, "Not a directory")
            elif not stat.S_ISDIR(mode):
                self._unlink(name, path, parent)
            elif "r" in self._options:
                self._tree(name, path.rstrip("/"), parent, 0)
            elif "d" in self._options:
                self._rmdir(name, path, parent)
            else:
                self._out.failed("rm", "remove", path, "Is a directory")
        finally:
            os.close(parent)

    def _tree(self, name: str, path: str, parent: int, depth: int) -> bool:
        """Whether it is gone. Raises OSError."""
        if depth >= DEPTH_MAX:
            self._out.failed("rm", "remove", path[:200], TOO_DEEP)
            return False
        handle = os.open(name, _FOLDER, dir_fd=parent)
        kept: set[str] = set()  # what does not go is told once
        try:
            is_whole = False
            while not is_whole:
                # Some file systems skip names when others go meanwhile; those are there when it is read again.
                before = self._removed
                for one in names_in(handle):
                    self._out.tick()
                    if one not in kept and not self._below(one, f"{path}/{one}", handle, depth):
                        kept.add(one)
                is_whole = self._removed == before or kept.issuperset(names_in(handle))
        finally:
            os.close(handle)
        return self._rmdir(name, path, parent)

    def _below(self, name: str, path: str, parent: int, depth: int) -> bool:
        """Whether it is gone."""
        try:
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                return self._tree(name, path, parent, depth + 1)
            self._unlink(name, path, parent)
        except FileNotFoundError:
            return True  # it was removed meanwhile
        except OSError as error:
            self._out.failed("rm", "remove", path, error)
            return False
        return True

    def _unlink(self, name: str, path: str, parent: int) -> None:
        os.unlink(name, dir_fd=parent)
        self._removed += 1
        if "v" in self._options:
            self._out.line(f"removed '{shown(path)}'")

    def _rmdir(self, name: str, path: str, parent: int) -> bool:
        """Whether it is gone."""
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            self._out.failed("rm", "remove", path, error)
            return False
        self._removed += 1
        if "v" in self._options:
            self._out.line(f"removed directory '{shown(path)}'")
        return True
