"""Tells when a process ends that is no child of ours, without looking again and again (Linux 5.3)."""

import asyncio
import os
from collections.abc import Callable


class Watch:
    """Calls `on_end` once, from the loop, when process `pid` is gone. Close it in the end."""

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        """Raises ProcessLookupError when there is no such process."""
        self._on_end = on_end
        self._file: int | None = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._file, self._ended)

    def close(self) -> None:
        if self._file is not None:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = None

    def _ended(self) -> None:
        self.close()
        self._on_end()
