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

from kaalia.clock import Clock
from kaalia.contracts.contract import Contract
from kaalia.contracts.lease import LeaseTime, certain
from kaalia.contracts.placement import Held, Machine, Plan, Want, Wish, plan
from kaalia.errors import KaaliaError, WorkloadError
from kaalia.log import about
from kaalia.model.workload import Protocol, WorkloadState, WorkloadStatus
from kaalia.reconciler import crash, status
from kaalia.reconciler.actions import Action, Launch, Nothing, Record, Restart, Start
from kaalia.reconciler.audit import Orphans, closed_because, conditions_of, forgotten, hidden, unclaimed
from kaalia.reconciler.diff import Sight, diff, diff_orphan
from kaalia.reconciler.execute import ALIVE, execute, fail, trying_again
from kaalia.reconciler.launch import Settings, Tools, no_mounts
from kaalia.reconciler.ledger import Books, Boot, Ledger
from kaalia.reconciler.outages import Outages
from kaalia.reconciler.retries import Retries
from kaalia.reconciler.sights import Sights
from kaalia.runtime.base import ANY_CONTRACT, BindMount, Observed, RegistryLogin, Runtime, SetApart
from kaalia.service import BACKOFF_S, Tasks, run_forever
from kaalia.store import changes as bells
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Database
from kaalia.store.ends import at_the_latest

log = logging.getLogger(__name__)

ENGINE_UNAVAILABLE = "engine_unavailable"
DOUBT_LOOK_S = 1.0
"""While the time is in doubt, an end that may have come is looked at this often at most."""
RELISTEN_S = 1.0
"""Between events that broke off and listening again."""


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
        )
        self._bell = changes.subscribe(Topic.CONTRACTS, Topic.MACHINE, Topic.TIME)
        self._listener = Tasks()
        self._actions = Tasks()
        self._in_flight: dict[int, Action] = {}
        self._retries = Retries()
        self._sights = Sights()
        self._outages = Outages()
        self._engine_answers = asyncio.Event()
        self._booted_at = booted_at
        self._look_at_s = 0.0
        self._failed_looks = 0
        self._next_change_at: datetime | None = None
        self._has_announced = False
        self._orphans = Orphans()
        self._known_conflicts: set[str] = set()
        self._known_apart: frozenset[SetApart] = frozenset()

    @property
    def is_idle(self) -> bool:
        """No action is in flight."""
        return len(self._actions) == 0

    async def run(self) -> None:
        self._listener.start("events", run_forever("reconciler events", self._listen))
        try:
            await run_forever(self.name, self._turn)
        finally:
            await self.detach()

    async def detach(self) -> None:
        """Let go of everything; nothing is stopped."""
        for tasks in (self._listener, self._actions, self._tools.tasks):
            await tasks.close()

    def look_again(self) -> None:
        """Ask for a whole list in the next turn."""
        self._look_at_s = 0.0
        self._bell.set()

    async def _turn(self) -> None:
        await self.reconcile()
        await bells.wait(self._bell, self._sleep_s())

    async def reconcile(self) -> None:
        """One turn: look if it is time to, then begin what is to be done. Does not wait for actions."""
        if self._clock.monotonic_s() >= self._look_at_s:
            await self._look()
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
        await self._announce(books)
        await self._inspect_doubted()

    def _sleep_s(self) -> float:
        now_s = self._clock.monotonic_s()
        times_s = [self._look_at_s - now_s]
        if self._sights.is_complete and self._next_change_at is not None:
            time = self._lease_time()
            wait_s = (self._next_change_at - time.earliest_at).total_seconds()
            times_s.append(wait_s if time.is_certain else max(wait_s, DOUBT_LOOK_S))
        if (retry_s := self._retries.next_s(now_s)) is not None:
            times_s.append(retry_s - now_s)
        return max(0.0, min(times_s))

    # Looking

    async def _look(self) -> None:
        mark, busy = self._sights.mark(), set(self._in_flight)
        try:
            found = await self._runtime.observe()
        except WorkloadError as error:
            await self._lose_engine(error)
            return
        obscured = await self._set_apart(found.set_apart)
        await self._ledger.prove_life(conditions_of(found.set_apart))
        self._sights.complete(found.workloads, mark, busy | set(self._in_flight), obscured)
        self._look_at_s = self._clock.monotonic_s() + self._tools.settings.resync_s
        self._failed_looks = 0
        self._engine_answers.set()
        if self._outages.is_lost:
            log.info("reconciler: the container engine answers again, %d workloads found", len(found.workloads))
            self._outages.back(self._clock.now())

    async def _set_apart(self, apart: tuple[SetApart, ...]) -> set[int]:
        """What cannot be read is told, once, and its contract is left as it is; the others go on."""
        for one in apart:
            if one not in self._known_apart:
                log.error("reconciler: container %s is set apart and never touched: %s", one.name, one.problem.message)
        self._known_apart = frozenset(apart)
        return hidden(await self._ledger.books(), apart) if apart else set()

    async def _lose_engine(self, error: WorkloadError) -> None:
        """Nothing is known, so nothing is done. What ran is told to be unknown; said once."""
        is_new = self._failed_looks == 0
        wait_s = BACKOFF_S[min(self._failed_looks, len(BACKOFF_S) - 1)]
        self._failed_looks += 1
        self._look_at_s = self._clock.monotonic_s() + wait_s
        self._sights.lose()
        self._engine_answers.clear()
        if is_new:
            log.warning("reconciler: nothing is done until the container engine answers: %s", error)
            books = await self._ledger.books()
            self._outages.lost(self._clock.now(), books.report)
            ran = [row for row in books.workloads.values() if row.state is WorkloadState.RUNNING]
            reason = "the container engine of the machine does not answer"
            await self._ledger.tell(status.unknown(row, reason, self._clock.now()) for row in ran)

    async def _listen(self) -> None:
        """Events until they break off; whatever was missed is found by a whole look."""
        await self._engine_answers.wait()
        has_listened = False
        try:
            async for contract_id in self._runtime.events():
                has_listened = True
                if contract_id == ANY_CONTRACT:
                    self.look_again()
                else:
                    self._sights.doubt(contract_id)
                    self._bell.set()
        except WorkloadError as error:
            log.debug("reconciler: events broke off: %s", error)
        if has_listened:
            # The engine went away, perhaps for less time than anybody needs to see it: what ended now did not end by
            # itself.
            self._outages.lost(self._clock.now())
            self._outages.lost(self._clock.now(), (await self._ledger.books()).report)
        self.look_again()
        await asyncio.sleep(RELISTEN_S)

    async def _inspect_doubted(self) -> None:
        doubted = self._sights.doubted - set(self._in_flight)
        for contract_id in doubted:
            mark = self._sights.mark()
            try:
                observed = await self._runtime.inspect(contract_id)
            except WorkloadError as error:
                log.debug("reconciler: cannot inspect C.%d: %s", contract_id, error)
                self.look_again()
                return
            self._sights.saw(contract_id, observed, mark)
        if doubted:
            self._bell.set()

    # Deciding

    def _plan(self, books: Books) -> Plan:
        present = {one.contract_id for one in self._sights.present()} | self._sights.apart
        held = [
            Held(
                contract=stored.contract,
                workload=books.workloads.get(stored.contract.contract_id),
                is_present=stored.contract.contract_id in present,
                missing_since=stored.missing_since,
                missing_revisions=stored.missing_revisions,
            )
            for stored in books.contracts
        ]
        owners = {claim.key: claim.contract_id for claim in books.claims if claim.kind is ClaimKind.GPU}
        for contract_id, action in self._in_flight.items():
            if isinstance(action, Launch | Start | Restart):
                owners |= dict.fromkeys(action.gpu_uuids, contract_id)
        time = self._lease_time()
        latest_at = None if time.is_certain else time.latest_at
        closed = closed_because(books, time)
        machine = Machine(books.report, books.listing, owners, closed, latest_at, books.volume_bytes)
        return plan(held, machine, time.earliest_at)

    def _pursue(self, wish: Wish, books: Books) -> bool:
        """Begin what the contract needs next. True: it is known to need nothing."""
        contract_id = wish.contract.contract_id
        if contract_id in self._in_flight:
            self._interrupt(wish)
            return False
        row, sight = books.workloads.get(contract_id), self._sights.of(contract_id)
        booted_at = self._booted_at or (books.report.system.booted_at if books.report else None)
        interruptions, intended = self._outages.interruptions(booted_at), books.intended_restarts(contract_id)
        action = diff(wish, row, sight, self._clock.now(), interruptions, intended)
        if isinstance(action, Nothing):
            if sight is not Sight.UNKNOWN:
                self._retries.clear(contract_id)
            return sight is not Sight.UNKNOWN
        self._begin(contract_id, action, books)
        return False

    def _interrupt(self, wish: Wish) -> None:
        """A pull is not worth finishing when its contract shall not run, or not like this."""
        action = self._in_flight[wish.contract.contract_id]
        is_outdated = isinstance(action, Launch) and action.contract.generation != wish.contract.generation
        is_unwanted = wish.want in (Want.STOP, Want.YIELD, Want.END) or is_outdated
        if is_unwanted and wish.contract.contract_id in self._tools.pulling:
            self._actions.cancel(wish.contract.contract_id)

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
            if observed.contract_id not in self._in_flight and not isinstance(action, Nothing):
                self._begin(observed.contract_id, action, books)

    # Doing

    def _begin(self, contract_id: int, action: Action, books: Books) -> None:
        now_s = self._clock.monotonic_s()
        if not self._retries.may_try(contract_id, action, now_s):
            return
        if isinstance(action, Launch) and books.report is None:
            return
        self._retries.begin(contract_id, action, now_s)
        self._in_flight[contract_id] = action
        with about(contract_id=contract_id):  # the task inherits it: all that is logged of it names the contract
            self._actions.start(contract_id, self._do(contract_id, action, books))

    async def _do(self, contract_id: int, action: Action, books: Books) -> None:
        row, sight = books.workloads.get(contract_id), self._sights.of(contract_id)
        before = sight if isinstance(sight, Observed) else None
        mark = self._sights.mark()
        try:
            observed = await execute(self._tools, action, row, before, books.report)
            if not isinstance(action, Record):
                log.info("reconciler: %s: %s", type(action).__name__.lower(), observed.state if observed else "absent")
            self._sights.saw(contract_id, observed, mark)
            self._retries.clear(contract_id)
        except KaaliaError as error:
            self._sights.doubt(contract_id)
            await self._give_way(contract_id, action, row, before, error)
        except asyncio.CancelledError:
            self._sights.doubt(contract_id)
            self._retries.clear(contract_id)
            raise
        finally:
            self._in_flight.pop(contract_id, None)
            self._bell.set()

    async def _give_way(
        self, contract_id: int, action: Action, row: WorkloadStatus | None, before: Observed | None, error: KaaliaError
    ) -> None:
        """An action ended with an error: wait for the engine, try again later, or give up for good."""
        if isinstance(error, WorkloadError) and error.code == ENGINE_UNAVAILABLE:
            self._retries.postpone(contract_id, action, self._clock.monotonic_s())
            self.look_again()
            return
        try:
            if isinstance(action, Launch | Start | Restart):
                if self._retries.is_hopeless(contract_id, action, error):
                    log.warning("reconciler: contract %d: %s", contract_id, error)
                    await fail(self._tools, action, row, error.problem)
                    self._retries.clear(contract_id)
                    return
                wait_s = self._retries.failed(contract_id, action, self._clock.monotonic_s())
                await self._ledger.tell([trying_again(self._tools, action, row, before, wait_s)])
            else:
                wait_s = self._retries.failed(contract_id, action, self._clock.monotonic_s())
            log.warning("reconciler: contract %d, next try in %.0f s: %s", contract_id, wait_s, error)
        except KaaliaError as second:
            self._retries.failed(contract_id, action, self._clock.monotonic_s())
            log.warning("reconciler: contract %d: %s", contract_id, second)

    # Keeping the books true

    async def _audit(self, books: Books) -> bool:
        """Claims for all that exists, nothing for what is gone. True: the books changed."""
        unsure = {*self._in_flight, *self._sights.doubted, *self._sights.apart}
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
        running = {one.contract_id for one in self._sights.present() if one.state in ALIVE} - set(self._in_flight)
        rows = [row for row in books.workloads.values() if row.contract_id in running]
        await self._ledger.tell(replace(row, as_of=now) for row in rows if row.state is WorkloadState.RUNNING)
