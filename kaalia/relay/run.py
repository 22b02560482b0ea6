"""Runs a relay until SIGTERM or SIGINT: sshd as a child, its permits as the marketplace says."""

import asyncio
import logging
import signal
from collections.abc import Callable
from functools import partial

from kaalia.errors import ConfigError, UnreachableError
from kaalia.relay import sshd
from kaalia.relay.link import Link
from kaalia.relay.options import Options, check_address
from kaalia.service import Tasks, run_forever
from kaalia.wire.protocol import LONG_POLL_S

log = logging.getLogger(__name__)

QUICK_S = 1.0
RESTART_S = 2.0
BIND_TRIES = 5
"""The sshd of a relay that was killed a moment ago may still be on its way out."""


async def serve(options: Options, on_ready: Callable[[str], None]) -> None:
    """`on_ready` gets the address and the host key once machines may log in.

    Raises ConfigError, and MarketplaceError when the marketplace refuses this relay at the start. One that does not
    answer is no error: who was permitted the last time is let in.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    host_key = await asyncio.to_thread(sshd.prepare, options)
    await _check_address(options)
    await sshd.check(options)
    link, tasks = Link(options, host_key), Tasks()
    permits = _Permits(options, link)
    try:
        await permits.begin()
        keep = partial(_live_once, options, lambda: on_ready(f"{options.address}:{options.port} {host_key}"))
        tasks.start("sshd", run_forever("sshd", keep))
        tasks.start("permits", run_forever("permits", permits.turn))
        await stop.wait()
    finally:
        await tasks.close()
        await link.close()


class _Permits:
    """Follows what the marketplace says, by a digest of what was written last."""

    def __init__(self, options: Options, link: Link) -> None:
        self._options = options
        self._link = link
        self._known = ""

    async def begin(self) -> None:
        try:
            await self._take(0.0)
        except UnreachableError as error:
            log.warning("%s; who was permitted before is let in", error)

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        asked_at_s = loop.time()
        if not await self._take(LONG_POLL_S) and loop.time() - asked_at_s < QUICK_S:
            await asyncio.sleep(QUICK_S)  # something on the way does not hold requests

    async def _take(self, wait_s: float) -> bool:
        found = await self._link.permits(self._known, wait_s)
        if found is None:
            return False
        await asyncio.to_thread(sshd.write_permits, self._options, found.machines)
        log.info("%d machines may listen", len(found.machines))
        self._known = found.digest
        return True


async def _check_address(options: Options) -> None:
    for tries_left in reversed(range(BIND_TRIES)):
        try:
            await asyncio.to_thread(check_address, options.address, options.port)
        except ConfigError:
            if not tries_left:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _live_once(options: Options, on_ready: Callable[[], None]) -> None:
    """From the start of sshd to its end."""
    program = await sshd.start(options)
    try:
        log.info("sshd listens on %s:%d, process %d", options.address, options.port, program.pid)
        on_ready()
        log.error("sshd ended with %d; it is started again", await program.ended())
    finally:
        await program.stop()
    await asyncio.sleep(RESTART_S)
