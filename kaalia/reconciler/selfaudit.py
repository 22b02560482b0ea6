"""The audit: once a minute the ledger is held against the engine and the driver. What differs twice is told.

It kills nothing and frees nothing. The one thing it writes beside conditions is the claim of a subnet whose network is
found without one: the books of a machine that lost its state get everything else from the containers' labels.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime

from kaalia.clock import Clock
from kaalia.errors import WorkloadError
from kaalia.model.gpu_use import GpuUse
from kaalia.model.health import Condition
from kaalia.pulse import PULSE
from kaalia.reconciler.findings import View, key, of_engine, of_gpus
from kaalia.reconciler.ledger import Books, Ledger
from kaalia.runtime.base import Present
from kaalia.service import run_forever
from kaalia.store import conditions, gpu_use, intents
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
ENGINE, GPUS = "audit", "audit gpus"
"""Sources of conditions: one is left as it is while the engine is silent, the other while the driver is."""


class AuditService:
    """`look` lists what the engine has. A finding is told when two audits in a row have it, or when it is told yet."""

    name = "audit"

    def __init__(
        self,
        database: Database,
        ledger: Ledger,
        look: Callable[[], Awaitable[tuple[Present, ...]]],
        clock: Clock,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._look = look
        self._clock = clock
        self._interval_s = interval_s
        self._suspected: dict[str, frozenset[tuple[str, str]]] = {ENGINE: frozenset(), GPUS: frozenset()}
        self._gpus_read_at: datetime | None = None

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        # After a start the reconciler first adopts what runs.
        await asyncio.sleep(self._interval_s)
        with PULSE.turn(self.name):
            await self.audit()

    async def audit(self) -> None:
        """One comparison. While the engine does not answer nothing is known, and nothing changes."""
        before = await self._database.read(_busy)
        try:
            present = await self._look()
        except WorkloadError as error:
            log.debug("audit: the engine was not compared: %s", error)
            return
        books = await self._ledger.books()
        if adopted := _subnets_without_claim(books, present):
            await self._ledger.hold_subnets(adopted)
            books = await self._ledger.books()
        busy = before | {intent.contract_id for intent in books.intents}
        view = View(books, present, busy)
        await self._tell(ENGINE, of_engine(view))
        use = await self._database.read(gpu_use.get)
        if use is not None and self._is_new(use):
            await self._tell(GPUS, of_gpus(view, use))

    def _is_new(self, use: GpuUse) -> bool:
        """The same reading twice confirms nothing."""
        is_new = use.read_at != self._gpus_read_at
        self._gpus_read_at = use.read_at
        return is_new

    async def _tell(self, source: str, found: Iterable[Condition]) -> None:
        known = [one.condition for one in await self._database.read(conditions.all_open) if one.source == source]
        told, seen = {key(one): one for one in known}, {key(one): one for one in found}
        confirmed = {name: one for name, one in seen.items() if name in told or name in self._suspected[source]}
        self._suspected[source] = frozenset(seen)
        if confirmed != told:
            now = self._clock.now()
            await self._database.transaction(lambda tx: conditions.replace(tx, source, confirmed.values(), now))
        for name in confirmed.keys() - told.keys():
            problem = confirmed[name].problem
            log.warning(
                "audit: %s of %s: %s (%s); nothing is stopped for that", *name, problem.message, problem.evidence
            )
        for name in told.keys() - confirmed.keys():
            log.info("audit: %s of %s is settled", *name)


def _busy(tx: Transaction) -> frozenset[int]:
    return frozenset(intent.contract_id for intent in intents.open_intents(tx))


def _subnets_without_claim(books: Books, present: Collection[Present]) -> dict[str, Claim]:
    """By the container that is in the network; an owner of any kind is left alone, and told of."""
    owned = {claim.key for claim in books.claims if claim.kind is ClaimKind.SUBNET}
    return {
        one.container_id: Claim(ClaimKind.SUBNET, one.subnets[0], one.contract_id, one.generation)
        for one in present
        if one.container_id and len(one.subnets) == 1 and one.subnets[0] not in owned
    }
