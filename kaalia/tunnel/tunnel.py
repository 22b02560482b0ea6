"""Keeps one connection to a relay and its forwards as they should be. Failing, it touches no tenant.

Forwards come and go one by one, so that nobody's session is cut for another's. A connection that is up, left by an
earlier daemon, is taken over with what was recorded of it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from kaalia.contracts import relay as rules
from kaalia.errors import ContractError, HostError, KaaliaError, Problem
from kaalia.host.pidfd import Watch
from kaalia.model.relay import LocalForward, OpenTunnel, RelayLink
from kaalia.store import relays
from kaalia.store.changes import wait
from kaalia.store.database import Database
from kaalia.tunnel.ssh import Connection

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 30.0
"""Waits after failures: doubling, with jitter, so that the machines of a relay do not all come back at once."""
TOLD_FROM = 2
"""Failures in a row: the first one may be a relay that has not heard of this machine yet."""
QUICK_S = 5.0
"""A connection that ended sooner is not made anew at once."""
_OWN_CODES = frozenset({"relay_down", "relay_key_changed", "relay_port_refused", "relay_invalid"})

Forwards = frozenset[LocalForward]


class Tunnel:
    """`on_news` is called when `problem` changed. `want` says what should be, `turn` is repeated for ever."""

    def __init__(
        self,
        name: str,
        database: Database,
        folder: Path,
        chance: random.Random,
        on_news: Callable[[], Awaitable[None]],
    ) -> None:
        self.problem: Problem | None = None
        self._name = name
        self._database = database
        self._connection = Connection(folder, name)
        self._chance = chance
        self._on_news = on_news
        self._bell = asyncio.Event()
        self._wanted: tuple[RelayLink, Forwards] | None = None
        self._endpoint = ""
        self._connected_s = -QUICK_S
        self._watch: Watch | None = None
        self._open: Forwards = frozenset()
        self._confirmed: Forwards = frozenset()
        self._failures = 0

    def want(self, wanted: tuple[RelayLink, Forwards] | None) -> None:
        """None: the connection shall end."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._bell.set()

    async def turn(self) -> None:
        """Make it so, then wait for news, or for the next try."""
        self._bell.clear()
        wait_s = None
        try:
            await self._settle()
        except (HostError, ContractError) as error:
            wait_s = await self._failed(error)
        else:
            self._failures = 0
            await self._tell(None)
        await wait(self._bell, wait_s)

    def leave(self) -> None:
        """The connection lives on."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def _settle(self) -> None:
        if self._wanted is None:
            await self._end()
            return
        link, forwards = self._wanted
        rules.check_link(link)
        await self._be_connected(link)
        await self._match(link, forwards)

    async def _failed(self, error: KaaliaError) -> float:
        """How long to wait."""
        self._failures += 1
        problem = error.problem
        if error.code not in _OWN_CODES:
            message = f"cannot keep the connection to relay {self._name}: {problem.message}"
            problem = Problem("relay_down", message, problem.remedy, problem.evidence)
        if self._failures >= TOLD_FROM or error.code == "relay_key_changed":
            await self._tell(problem)
        longest_s = min(LONGEST_S, FIRST_S * 2 ** min(self._failures - 1, 10))
        return self._chance.uniform(longest_s / 2, longest_s)

    async def _be_connected(self, link: RelayLink) -> None:
        if self._watch is not None and self._endpoint == link.endpoint:
            return
        self.leave()
        known = (await self._database.read(relays.tunnels)).get(self._name)
        pid = await self._connection.pid()
        if pid is not None and (known is None or known.endpoint != link.endpoint):
            await self._connection.close()
            pid = None
        self._confirmed = frozenset()
        if pid is not None and known is not None:
            self._open = frozenset(known.forwards)
            log.info("relay %s: found its connection again, process %d", link.relay, pid)
        else:
            pid = await self._connect(link)
        try:
            self._watch = Watch(pid, self._lost)
        except ProcessLookupError:
            raise HostError("relay_down", f"cannot keep the connection to relay {link.relay}: it ended") from None
        self._endpoint = link.endpoint

    async def _connect(self, link: RelayLink) -> int:
        loop = asyncio.get_running_loop()
        if loop.time() - self._connected_s < QUICK_S:
            await asyncio.sleep(self._chance.uniform(FIRST_S, 2 * FIRST_S))
        await self._record(link, frozenset())
        pid = await self._connection.connect(link)
        self._connected_s = loop.time()
        log.info("relay %s: connected, process %d", link.relay, pid)
        return pid

    async def _match(self, link: RelayLink, forwards: Forwards) -> None:
        """Nothing is done that stands already; of several failures the first is told, after all were tried."""
        failed: HostError | None = None
        for gone in self._open - forwards:
            await self._connection.cancel(gone)
            await self._record(link, self._open - {gone})
        for new in forwards - self._confirmed:
            await self._record(link, self._open | {new})
            try:
                await self._connection.forward(new)
                self._confirmed |= {new}
            except HostError as error:
                failed = failed or error
                await self._record(link, self._open - {new})
        if failed is not None:
            raise failed

    async def _record(self, link: RelayLink, forwards: Forwards) -> None:
        """Before they are opened, and after they were closed."""
        if forwards != self._open or not forwards:
            listed = tuple(sorted(forwards, key=lambda forward: forward.relay_port))
            await self._database.transaction(
                lambda tx: relays.put_tunnel(tx, OpenTunnel(self._name, link.endpoint, listed))
            )
        self._open, self._confirmed = forwards, self._confirmed & forwards

    async def _end(self) -> None:
        """Done once more it does nothing."""
        self.leave()
        if self._name in await self._database.read(relays.tunnels):
            await self._connection.close()
            await self._database.transaction(lambda tx: relays.forget_tunnel(tx, self._name))
            log.info("relay tunnel %s: closed", self._name)

    async def _tell(self, problem: Problem | None) -> None:
        if problem != self.problem:
            if problem is not None and (self.problem is None or self.problem.code != problem.code):
                log.warning("%s: %s", problem.message, problem.evidence)
            self.problem = problem
            await self._on_news()

    def _lost(self) -> None:
        self._watch = None
        self._bell.set()
