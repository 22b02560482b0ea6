"""Tells systemd that the daemon is ready, what it is doing, and that it makes progress.

The watchdog is fed from evidence only: the line it sends was read from the store by the store's thread, on a
running event loop. A hung Docker or driver is awaited elsewhere with deadlines and never starves it.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

from kaalia.errors import KaaliaError

log = logging.getLogger(__name__)

IDLE_INTERVAL_S = 30.0
"""Between two status lines when systemd asks for no watchdog."""
PROGRESS_DEADLINE_S = 15.0
"""A store that takes longer to answer has stopped."""


class Systemd:
    """The notification socket. Without one (no systemd, Type=simple) every call does nothing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1_000_000 if usec.isdecimal() and mine else None

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def send(self, *lines: str) -> None:
        """Send lines such as `READY=1`. Losing one is no reason to fail."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
            try:
                door.setblocking(False)
                door.sendto("\n".join(lines).encode(), address)
            except OSError as error:
                log.warning("cannot notify systemd at %s: %s", self._address, error)


class NotifyService:
    """Says READY once the daemon listens, then keeps status line and watchdog going.

    `progress` returns the status line; it must pass through every part whose standstill is worth a restart.
    """

    name = "notify"

    def __init__(self, systemd: Systemd, ready: asyncio.Event, progress: Callable[[], Awaitable[str]]) -> None:
        self._systemd = systemd
        self._ready = ready
        self._progress = progress

    async def run(self) -> None:
        await self._ready.wait()
        self._systemd.send("READY=1")
        if not self._systemd.listens:
            await asyncio.Event().wait()
        while True:
            await self._tell()
            await asyncio.sleep((self._systemd.watchdog_s or 3 * IDLE_INTERVAL_S) / 3)

    async def _tell(self) -> None:
        try:
            async with asyncio.timeout(PROGRESS_DEADLINE_S):
                line = await self._progress()
        except (KaaliaError, TimeoutError) as error:
            log.error("no sign of progress, the watchdog is not fed: %s", error or "the store does not answer")
        else:
            self._systemd.send(f"STATUS={line}", "WATCHDOG=1")
