"""Keeps networks ready for contracts that come, and removes those of contracts that went. Touches no contract."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kaalia.contracts.ports import next_subnet
from kaalia.errors import WorkloadError
from kaalia.reconciler.ledger import Ledger
from kaalia.runtime.networking import NetworkPool
from kaalia.service import run_forever


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds."""

    look_s: float = 60.0
    """Between two looks when nothing happens."""
    first_s: float = 5.0
    """Between the first two: what a daemon that died had asked the engine for may come late."""
    settle_s: float = 1.0
    """After one was taken or left: making and removing networks would slow the very launch or removal down."""
    retry_s: float = 5.0
    """While the engine does not answer."""


class SandboxService:
    """`routes`: networks that the machine routes, as CIDR."""

    name = "sandboxes"

    def __init__(
        self,
        pool: NetworkPool,
        ledger: Ledger,
        subnet_pool: str,
        routes: Callable[[], Collection[str]],
        waits: Waits = Waits(),
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._subnet_pool = subnet_pool
        self._routes = routes
        self._waits = waits
        self._wait_s = waits.first_s

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        try:
            await self._pool.refill(self._ledger.subnets, self._choose)
        except WorkloadError as error:
            if error.code != "engine_unavailable":
                raise
            await asyncio.sleep(self._waits.retry_s)
            return
        await self._pool.changed(self._wait_s)
        self._wait_s = self._waits.look_s
        await asyncio.sleep(self._waits.settle_s)

    def _choose(self, taken: Collection[str]) -> str:
        return next_subnet(self._subnet_pool, {*taken, *self._routes()})
