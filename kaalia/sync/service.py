"""Keeps one conversation with the marketplace going: desired state in, statuses out, tasks answered.

A machine that is not enrolled waits here until it is. Cancellation detaches; nothing of a tenant is touched.
"""

import asyncio
import logging
import random
import ssl
from pathlib import Path

from kaalia.clock import Clock
from kaalia.contracts.policy import OPEN, Policy
from kaalia.errors import MarketplaceError, UnreachableError
from kaalia.runtime.base import RegistryLogin
from kaalia.service import run_forever
from kaalia.store import enrolment
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from kaalia.sync.backoff import Backoff
from kaalia.sync.certificates import Certificates
from kaalia.sync.client import HeardTime, MarketplaceClient
from kaalia.sync.enroll import load_key
from kaalia.sync.pull import Pull
from kaalia.sync.push import Push
from kaalia.sync.snapshots import TakeSnapshot
from kaalia.sync.tasks import Copy, Execute, ReadLogs, Search, TaskRunner

log = logging.getLogger(__name__)

HEARTBEAT_S = 60.0
"""A marketplace counts a machine as offline after three of them."""
LOST_POST_S = (1.0, 6.0)
"""After a lost connection a heartbeat goes early; not all machines' at once, should the marketplace have gone."""


class SyncService:
    """The daemon's side of docs/protocol.md. `logs` reads a workload's output, given by whoever builds the daemon."""

    name = "sync"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        state_dir: Path,
        logs: ReadLogs,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        tls: ssl.SSLContext | None = None,
        chance: random.Random | None = None,
        heard: HeardTime | None = None,
        policy: Policy = OPEN,
        execute: Execute | None = None,
        copy: Copy | None = None,
        search: Search | None = None,
        snapshot: TakeSnapshot | None = None,
    ) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._state_dir = state_dir
        self._logs = logs
        self._heartbeat_s = heartbeat_s
        self._tls = tls
        self._heard = heard
        self._policy = policy
        self._execute = execute
        self._copy = copy
        self._search = search
        self._snapshot = snapshot
        self._chance = chance or random.SystemRandom()
        self._enrolled = changes.subscribe(Topic.ENROLMENT)
        self._outbox = changes.subscribe(Topic.OUTBOX, Topic.ADDRESS, Topic.CONDITIONS)
        self._tasks = changes.subscribe(Topic.TASKS)
        self._contracts = changes.subscribe(Topic.CONTRACTS, Topic.MACHINE)
        self._client: MarketplaceClient | None = None

    async def run(self) -> None:
        await run_forever(self.name, self._converse)

    async def login_source(self, contract_id: int) -> RegistryLogin | None:
        """The login for a contract's image, fetched now; None when there is none. Raises MarketplaceError."""
        if self._client is None:
            raise UnreachableError(
                "marketplace_unreachable",
                f"cannot fetch the registry login of contract {contract_id}: not connected yet",
            )
        try:
            reply = await self._client.registry_login(contract_id)
        except MarketplaceError as error:
            if error.code == "login_unknown":
                return None
            raise
        return RegistryLogin(reply.registry, reply.username, reply.password)

    async def _converse(self) -> None:
        member = await enrolment.wait_for(self._database, self._enrolled)
        key = await asyncio.to_thread(load_key, self._state_dir)
        client = self._client = MarketplaceClient(
            member.url, member.machine_id, key, self._clock, self._tls, self._heard
        )
        runner = TaskRunner(
            self._database,
            client,
            self._clock,
            self._tasks,
            self._logs,
            self._backoff,
            execute=self._execute,
            copy=self._copy,
            search=self._search,
            snapshot=self._snapshot,
        )
        pull = Pull(self._database, client, self._clock, member, self._backoff(), self._policy, self._lost)
        push = Push(self._database, client, self._clock, self._outbox, self._backoff(), self._chance, self._heartbeat_s)
        certificates = Certificates(self._database, client, self._clock, self._contracts, key, self._backoff())
        log.info("speaking to %s as machine %d", member.url, member.machine_id)
        try:
            await asyncio.gather(
                run_forever("sync pull", pull.turn),
                run_forever("sync push", push.turn),
                run_forever("sync tasks", runner.turn),
                run_forever("sync certificates", certificates.turn),
            )
        finally:
            self._client = None
            await runner.close()
            await client.close()

    def _lost(self) -> None:
        """Where this machine comes from may be another place now, and only a post tells."""
        self._changes.ring_later(Topic.OUTBOX, self._chance.uniform(*LOST_POST_S))

    def _backoff(self) -> Backoff:
        return Backoff(self._chance)
