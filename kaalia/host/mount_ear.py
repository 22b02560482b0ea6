"""Hears when something is mounted, unmounted or mounted otherwise, without looking: see poll in proc_pid_mountinfo(5).

A file system that the kernel makes read-only by itself is no change of a mount: its log tells that.
"""

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.mountinfo import ROOT


class MountEar:
    """Use it in a loop. `on_change` is called there; containers that come and go are changes too."""

    def __init__(self, on_change: Callable[[], None], root: Path = ROOT) -> None:
        """Raises HostError `mounts_unheard`."""
        self._on_change = on_change
        try:
            self._file = os.open(root / "proc/1/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError("mounts_unheard", f"cannot hear changes of mounts: {error}") from error
        # Of its own: the loop's asks whether there is something to read, and that there always is.
        self._changes = select.epoll()
        try:
            self._changes.register(self._file, select.EPOLLPRI)
        except OSError as error:
            self._let_go()
            raise HostError("mounts_unheard", f"cannot hear changes of mounts: {error}") from error
        asyncio.get_running_loop().add_reader(self._changes.fileno(), self._heard)

    def close(self) -> None:
        if not self._changes.closed:
            asyncio.get_running_loop().remove_reader(self._changes.fileno())
            self._let_go()

    def _heard(self) -> None:
        self._changes.poll(0)
        self._on_change()

    def _let_go(self) -> None:
        self._changes.close()
        os.close(self._file)
