"""Keeps the way in by relays, for contracts that were given ports of one: a connection for each block of ports.

Costs nothing while nobody needs it. The connections live on when the daemon stops, and a failure is told (`relay_down`
and others, source `relay`) and tried again; tenants never notice more than that nobody comes in.
"""

import asyncio
import logging
import random
import shutil
from pathlib import Path

from kaalia.clock import Clock
from kaalia.errors import Problem
from kaalia.model.health import Condition, Severity
from kaalia.service import Tasks, run_forever
from kaalia.store import conditions, relays
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database
from kaalia.tunnel.key import ensure_key
from kaalia.tunnel.tunnel import Tunnel

log = logging.getLogger(__name__)

FOLDER = "relay"
"""Below the state directory: not in /run, which systemd empties when the daemon stops."""
MISSING_LOOK_S = 300.0


class TunnelService:
    """`chance`: spreads the tries of many machines."""

    name = "tunnel"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        state_dir: Path,
        chance: random.Random | None = None,
    ) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._folder = state_dir / FOLDER
        self._chance = chance or random.SystemRandom()
        self._bell = changes.subscribe(Topic.CONTRACTS, Topic.WORKLOADS)
        self._tunnels: dict[str, Tunnel] = {}
        self._tasks = Tasks()
        self._told: list[Condition] | None = None

    async def run(self) -> None:
        try:
            await run_forever(self.name, self._turn)
        finally:
            await self._tasks.close()
            for tunnel in self._tunnels.values():
                tunnel.leave()

    async def _turn(self) -> None:
        if not await self._is_able():
            await wait(self._bell, MISSING_LOOK_S)
            return
        while True:
            await self._want()
            await wait(self._bell, None)

    async def _is_able(self) -> bool:
        """Without ssh the marketplace gets no key, and gives no ports."""
        if await asyncio.to_thread(shutil.which, "ssh") is None:
            missing = await self._database.read(relays.links)
            await self._tell([_ssh_missing()] if missing else [])
            return False
        key = await asyncio.to_thread(ensure_key, self._folder)
        if await self._database.read(relays.get_key) != key:
            await self._database.transaction(lambda tx: relays.put_key(tx, key), Topic.OUTBOX)
        return True

    async def _want(self) -> None:
        wanted = {link.name: (link, forwards) for link, forwards in (await self._database.read(relays.wanted)).items()}
        known = await self._database.read(relays.tunnels)
        needed = {name for name, (_, forwards) in wanted.items() if forwards}
        for name in needed | known.keys() | self._tunnels.keys():
            tunnel = self._tunnels.get(name)
            if tunnel is None:
                tunnel = Tunnel(name, self._database, self._folder, self._chance, self._news)
                self._tunnels[name] = tunnel
            tunnel.want(wanted.get(name) if name in needed else None)
            if not self._tasks.busy(name):
                self._tasks.start(name, run_forever(f"tunnel {name}", tunnel.turn))

    async def _news(self) -> None:
        found = [_condition(tunnel.problem) for tunnel in self._tunnels.values() if tunnel.problem is not None]
        await self._tell(list(dict.fromkeys(found)))

    async def _tell(self, found: list[Condition]) -> None:
        if found != self._told:
            now = self._clock.now()
            await self._database.transaction(lambda tx: conditions.replace(tx, relays.SOURCE, found, now))
            self._told = found


def _condition(problem: Problem) -> Condition:
    return Condition(problem, Severity.CRITICAL, "the relay answers again")


def _ssh_missing() -> Condition:
    problem = Problem(
        "ssh_missing",
        "cannot reach the relays of this machine's contracts: the program ssh is not on this machine",
        remedy="install OpenSSH's client: apt install openssh-client",
    )
    return Condition(problem, Severity.CRITICAL, "ssh is there")
