"""Keeps networks ready for contracts that come, and removes those of contracts that went. Touches no contract."""

import asyncio
from collections.abc import Callable, Collection

from kaalia.contracts.ports import next_subnet
from kaalia.errors import WorkloadError
from kaalia.reconciler.ledger import Ledger
from kaalia.runtime.base import NetworkPool
from kaalia.service import run_forever

LOOK_S = 60.0
SETTLE_S = 1.0
"""After one was taken or left: making and removing networks would slow the very launch or removal down."""
RETRY_S = 5.0
"""While the engine does not answer."""


class SandboxService:
    """`routes`: networks that the machine routes, as CIDR. `look_s`: between two looks when nothing happens."""

    name = "sandboxes"

    def __init__(
        self,
        pool: NetworkPool,
        ledger: Ledger,
        subnet_pool: str,
        routes: Callable[[], Collection[str]],
        look_s: float = LOOK_S,
    ) -> None:
        self._pool = pool
        self._ledger = ledger
        self._subnet_pool = subnet_pool
        self._routes = routes
        self._look_s = look_s

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        try:
            await self._pool.refill(self._ledger.subnets, self._choose)
        except WorkloadError as error:
            if error.code != "engine_unavailable":
                raise
            await asyncio.sleep(RETRY_S)
            return
        await self._pool.changed(self._look_s)
        await asyncio.sleep(SETTLE_S)

    def _choose(self, taken: Collection[str]) -> str:
        return next_subnet(self._subnet_pool, {*taken, *self._routes()})
