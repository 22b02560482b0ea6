"""The loop that makes what runs equal what was agreed.

    look (events, resync) ──▶ read the books ──▶ plan ──▶ diff ──▶ one action in flight a contract ──▶ sleep

Sleeps until the bell, an event of the runtime, the next end of a contract, a retry, or the next resync. While the
engine does not answer nothing is done. Cancellation detaches: tenants run on, open intents are settled after the start.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime
from functools import partial

from kaalia.clock import Clock
from kaalia.contracts.contract import Contract
from kaalia.contracts.lease import LeaseTime, certain
from kaalia.contracts.placement import plan
from kaalia.contracts.wish import Plan, Wish
from kaalia.model.workload import Protocol, WorkloadState
from kaalia.pulse import PULSE
from kaalia.reconciler import admission, crash
from kaalia.reconciler.actions import Nothing
from kaalia.reconciler.audit import Orphans, forgotten, unclaimed
from kaalia.reconciler.diff import diff, diff_orphan
from kaalia.reconciler.eyes import Eyes
from kaalia.reconciler.hands import Hands
from kaalia.reconciler.holdings import holdings
from kaalia.reconciler.image_use import ImageUse
from kaalia.reconciler.keys import Keys
from kaalia.reconciler.launch import Settings, Tools, no_mounts, no_tags
from kaalia.reconciler.ledger import Books, Boot, Ledger
from kaalia.reconciler.notebooks import Notebooks
from kaalia.reconciler.seen import Sight
from kaalia.reconciler.sights import Sights
from kaalia.runtime.base import ALIVE, BindMount, RegistryLogin, Runtime
from kaalia.runtime.networking import NetworkPool
from kaalia.service import Tasks, run_forever
from kaalia.store import changes as bells
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Database
from kaalia.store.ends import at_the_latest

log = logging.getLogger(__name__)

DOUBT_LOOK_S = 1.0
"""While the time is in doubt, an end that may have come is looked at this often at most."""


class ReconcilerService:
    """Starts and stops tenants' workloads; nobody else does.

    `booted_at`: start of this boot; without it the stored report says so. `lease_time`: what contracts go by; without
    it the clock, which statuses go by: they are compared with what the engine wrote by the wall clock.
    `checkpoint` and `randbelow` are for tests.
    """

    name = "reconciler"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        runtime: Runtime,
        clock: Clock,
        machine: str,
        login_source: Callable[[int], Awaitable[RegistryLogin | None]],
        settings: Settings,
        port_busy: Callable[[int, Protocol], bool],
        *,
        host_routes: Callable[[], Collection[str]] = tuple,
        booted_at: datetime | None = None,
        lease_time: Callable[[], LeaseTime] | None = None,
        boot_id: str = "",
        randbelow: Callable[[int], int] = secrets.randbelow,
        checkpoint: Callable[[str], None] = crash.at,
        mounts: Callable[[Contract], Awaitable[tuple[BindMount, ...]]] | None = None,
        images: ImageUse | None = None,
        networks: NetworkPool | None = None,
        tags: Callable[[str, RegistryLogin | None], Awaitable[tuple[str, ...]]] | None = None,
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._lease_time = lease_time or (lambda: certain(clock.now()))
        self._ledger = Ledger(database, clock, Boot(boot_id, booted_at))
        self._tools = Tools(
            ledger=self._ledger,
            runtime=runtime,
            clock=clock,
            machine=machine,
            login_source=login_source,
            settings=settings,
            port_busy=port_busy,
            host_routes=host_routes,
            randbelow=randbelow,
            checkpoint=checkpoint,
            starts=asyncio.Semaphore(settings.parallel_starts),
            mounts=mounts or no_mounts,
            images=images or ImageUse(),
            networks=networks,
            tags=tags or no_tags,
        )
        self._bell = changes.subscribe(Topic.CONTRACTS, Topic.MACHINE, Topic.TIME, Topic.CONDITIONS)
        self._listener = Tasks()
        self._sights = Sights()
        self._keys = Keys(runtime)
        self.notebooks = Notebooks(runtime, clock, self._bell.set)
        self._hands = Hands(self._tools, self._sights, self._bell.set, self.look_again)
        look_s, news = settings.resync_s, partial(changes.ring, Topic.ENGINE)
        self._eyes = Eyes(
            runtime, self._sights, self._ledger, clock, look_s, lambda: self._hands.busy, self._bell.set, news
        )
        self._booted_at = booted_at
        self._next_change_at: datetime | None = None
        self._has_announced = False
        self._orphans = Orphans()
        self._known_conflicts: set[str] = set()

    @property
    def is_idle(self) -> bool:
        """No action is in flight."""
        return self._hands.is_idle

    async def run(self) -> None:
        self._listener.start("events", run_forever("reconciler events", self._eyes.listen))
        self._listener.start("notebooks", run_forever("reconciler notebooks", self.notebooks.turn))
        try:
            await run_forever(self.name, self._turn)
        finally:
            await self.detach()

    async def detach(self) -> None:
        """Let go of everything; nothing is stopped."""
        await self._listener.close()
        await self._hands.let_go()

    def look_again(self) -> None:
        """Ask for a whole list in the next turn."""
        self._eyes.look_again()

    async def _turn(self) -> None:
        with PULSE.turn(self.name):
            await self.reconcile()
        await bells.wait(self._bell, self._sleep_s())

    async def reconcile(self) -> None:
        """One turn: look if it is time to, then begin what is to be done. Does not wait for actions."""
        if self._clock.monotonic_s() >= self._eyes.look_at_s:
            await self._eyes.look()
        if not self._sights.is_complete:
            return
        books = await self._ledger.books()
        if await self._audit(books):
            books = await self._ledger.books()
        planned = self._plan(books)
        self._next_change_at = planned.next_change_at
        settled = [wish for wish in planned.wishes if self._pursue(wish, books)]
        await self._pursue_orphans(books)
        await self._close_settled(settled, books)
        if (cordon := admission.to_obey(books, self._hands.launching)) is not None:
            await self._ledger.obey(cordon)
        agreed = [stored.contract for stored in books.contracts]
        await self._keys.tell(agreed, self._sights.present(), books.certificates)
        self.notebooks.follow(agreed, self._sights.present())
        await self._announce(books)
        await self._eyes.inspect_doubted()

    def _sleep_s(self) -> float:
        now_s = self._clock.monotonic_s()
        times_s = [self._eyes.look_at_s - now_s]
        if self._sights.is_complete and self._next_change_at is not None:
            time = self._lease_time()
            wait_s = (self._next_change_at - time.earliest_at).total_seconds()
            times_s.append(wait_s if time.is_certain else max(wait_s, DOUBT_LOOK_S))
        if (retry_s := self._hands.next_try_s()) is not None:
            times_s.append(retry_s - now_s)
        return max(0.0, min(times_s))

    def _plan(self, books: Books) -> Plan:
        present = {one.contract_id for one in self._sights.present()} | self._sights.apart
        owners = {claim.key: claim.contract_id for claim in books.claims if claim.kind is ClaimKind.GPU}
        owners |= self._hands.granted()
        time = self._lease_time()
        machine = admission.machine(books, owners, time, self._tools.settings.policy)
        return plan(holdings(books, present, self.notebooks.words), machine, time.earliest_at)

    def _pursue(self, wish: Wish, books: Books) -> bool:
        """Begin what the contract needs next. True: it is known to need nothing."""
        contract_id = wish.contract.contract_id
        if contract_id in self._hands.busy:
            self._hands.interrupt(wish)
            return False
        row, sight = books.workloads.get(contract_id), self._sights.of(contract_id)
        booted_at = self._booted_at or (books.report.system.booted_at if books.report else None)
        interruptions, intended = self._eyes.outages.interruptions(booted_at), books.start_counts(contract_id)
        action = diff(wish, row, sight, self._clock.now(), interruptions, intended)
        if isinstance(action, Nothing):
            if sight is not Sight.UNKNOWN:
                self._hands.forget_failures(contract_id)
            return sight is not Sight.UNKNOWN
        self._hands.begin(contract_id, action, books)
        return False

    async def _pursue_orphans(self, books: Books) -> None:
        known = {stored.contract.contract_id for stored in books.contracts}
        orphans = [one for one in self._sights.present() if one.contract_id not in known]
        word, now = books.snapshot, self._lease_time().earliest_at
        self._orphans.keep_only({one.contract_id for one in orphans})
        recorded = await self._ledger.recorded_ends() if orphans else {}
        for observed in orphans:
            end_at = at_the_latest(observed.end_at, observed.contract_id, recorded)
            missing = self._orphans.missing(observed, word, now)
            action = diff_orphan(replace(observed, end_at=end_at), *missing, now)
            if observed.contract_id not in self._hands.busy and not isinstance(action, Nothing):
                self._hands.begin(observed.contract_id, action, books)

    async def _audit(self, books: Books) -> bool:
        """Claims for all that exists, nothing for what is gone. True: the books changed."""
        unsure = {*self._hands.busy, *self._sights.doubted, *self._sights.apart}
        present = self._sights.present()
        missing, sizes, conflicts = unclaimed(books, [one for one in present if one.contract_id not in unsure])
        for conflict in set(conflicts) - self._known_conflicts:
            log.error("reconciler: %s; nothing is stopped for that", conflict)
        self._known_conflicts = set(conflicts)
        gone = forgotten(books, {*unsure, *(one.contract_id for one in present)})
        if missing or sizes:
            await self._ledger.hold(missing, sizes)
        if gone:
            await self._ledger.forget(gone)
        return bool(missing or sizes or gone)

    async def _close_settled(self, settled: list[Wish], books: Books) -> None:
        """Open intents of contracts that need nothing: a crash came between the deed and its record."""
        quiet = {wish.contract.contract_id for wish in settled}
        if found := {intent.contract_id for intent in books.intents} & quiet:
            await self._ledger.close_intents(found)

    async def _announce(self, books: Books) -> None:
        """Once after the start: what was found running is told at once, changed or not."""
        if self._has_announced:
            return
        self._has_announced = True
        now = self._clock.now()
        running = {one.contract_id for one in self._sights.present() if one.state in ALIVE} - set(self._hands.busy)
        rows = [row for row in books.workloads.values() if row.contract_id in running]
        await self._ledger.tell(replace(row, as_of=now) for row in rows if row.state is WorkloadState.RUNNING)
