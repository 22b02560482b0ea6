"""Sees to it that every contract with Jupyter has a certificate, and a newer one before it ends.

The key follows from the machine's own and stays here; the marketplace's authority signs. What fails is tried again,
and a certificate that cannot be renewed is kept: nothing of a tenant depends on the marketplace's answer in time.
"""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.clock import Clock
from kaalia.contracts import certificate as rules
from kaalia.errors import MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.model.certificate import Certificate
from kaalia.store import certificates as store
from kaalia.store.changes import Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.sync.backoff import Backoff
from kaalia.sync.client import MarketplaceClient
from kaalia.wire import signature

log = logging.getLogger(__name__)

RETRIES_S = (2.0, 5.0, 20.0, 60.0, 60.0, 60.0, 600.0)
"""While the marketplace refuses one, or leaves out this machine's address: it has not heard of it yet, or does not see
the machine come from there. The last for good.
"""
LOOK_MAX_S = 6 * 3600.0
"""The wall clock may be set meanwhile."""

Wanted = Mapping[int, tuple[str, ...]]
"""Names by contract."""


class Certificates:
    """Works when `bell` rings (Topic.CONTRACTS, Topic.MACHINE), and when one comes to its end."""

    def __init__(
        self,
        database: Database,
        client: MarketplaceClient,
        clock: Clock,
        bell: asyncio.Event,
        key: Ed25519PrivateKey,
        backoff: Backoff,
    ) -> None:
        self._database = database
        self._client = client
        self._clock = clock
        self._bell = bell
        self._key = key
        self._backoff = backoff
        self._refused: dict[int, str] = {}
        self._tries: dict[int, int] = {}
        self._next_at_s: dict[int, float] = {}

    async def turn(self) -> None:
        await self._backoff.guard("certificates", self.look)
        await wait(self._bell, await self._sleep_s())

    async def look(self) -> None:
        """Fetch what is due. Raises MarketplaceError when the marketplace does not answer."""
        wanted, known = await self._database.read(_both)
        due = _due(wanted, known, self._clock.now())
        self._tries = {number: self._tries.get(number, 0) for number in due}
        if known.keys() - wanted.keys():
            await self._database.transaction(lambda tx: store.keep_only(tx, store.wanted(tx)))
        self._next_at_s = {number: at_s for number, at_s in self._next_at_s.items() if number in due}
        for contract_id in due:
            if self._clock.monotonic_s() >= self._next_at_s.get(contract_id, 0.0):
                await self._fetch(contract_id, known.get(contract_id))

    async def _fetch(self, contract_id: int, known: Certificate | None) -> None:
        public_key = signature.tls_public_pem(signature.tls_key(self._key, contract_id))
        try:
            fetched = await self._client.certificate(contract_id, public_key)
        except (UnreachableError, UnauthorizedError):
            raise
        except MarketplaceError as error:
            self._put_off(contract_id)
            if self._refused.get(contract_id) != error.code:
                log.warning("certificates: contract %d: %s", contract_id, error)
            self._refused[contract_id] = error.code
            return
        self._put_off(contract_id)
        self._refused.pop(contract_id, None)
        if not rules.is_due(known, fetched.names, self._clock.now()):
            return  # the marketplace has not heard yet of what changed here

        def put(tx: Transaction) -> None:
            if contract_id in store.wanted(tx):
                store.put(tx, fetched)

        await self._database.transaction(put, Topic.CONTRACTS)
        log.info("certificates: contract %d has one until %s", contract_id, fetched.ends_at)

    def _put_off(self, contract_id: int) -> None:
        """Should it still be due afterwards."""
        tries = self._tries.get(contract_id, 0)
        self._tries[contract_id] = tries + 1
        self._next_at_s[contract_id] = self._clock.monotonic_s() + RETRIES_S[min(tries, len(RETRIES_S) - 1)]

    async def _sleep_s(self) -> float | None:
        """Until one is due; None: there is nothing to wait for but the bell."""
        wanted, known = await self._database.read(_both)
        if not wanted:
            return None
        now = self._clock.now()
        if due := _due(wanted, known, now):
            now_s = self._clock.monotonic_s()
            return max(min(self._next_at_s.get(number, now_s) - now_s for number in due), 0.1)
        next_s = min((rules.renewal_at(known[number]) - now).total_seconds() for number in wanted)
        return min(max(next_s, 1.0), LOOK_MAX_S)


def _both(tx: Transaction) -> tuple[Wanted, Mapping[int, Certificate]]:
    return store.wanted(tx), store.all_certificates(tx)


def _due(wanted: Wanted, known: Mapping[int, Certificate], now: datetime) -> list[int]:
    return [number for number, names in wanted.items() if rules.is_due(known.get(number), names, now)]
