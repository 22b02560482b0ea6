"""One-shot requests of the marketplace: taken from the store, so at most once, and answered within seconds.

Refuses verbs that are not on the list, contracts that are not here, and requests whose time is over.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

from kaalia.clock import Clock
from kaalia.contracts import command
from kaalia.errors import KaaliaError, MarketplaceError, Problem, UnreachableError
from kaalia.model.copying import CloudLogin
from kaalia.model.selftest import SelfTestOrder
from kaalia.service import Tasks
from kaalia.store import contracts, selftest
from kaalia.store import tasks as store
from kaalia.store.changes import Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.sync.backoff import Backoff
from kaalia.sync.client import MarketplaceClient
from kaalia.sync.log_filter import apply_filter, is_simple
from kaalia.sync.snapshots import SnapshotTasks, TakeSnapshot, interrupted
from kaalia.sync.story import tell
from kaalia.wire.protocol import TaskRequest, TaskResult, Verb, shortened

log = logging.getLogger(__name__)

ANSWER_S = 7.0
"""The client of the marketplace waits nine seconds for logs, the marketplace eight."""
AT_ONCE_MAX = 4
EXECUTE_S = 5.0
"""For the work itself, which then says how far it came; the rest of ANSWER_S is for getting there."""

ReadLogs = Callable[[int, int], Awaitable[str]]
"""(contract_id, tail) to the last lines of the workload's output."""
Execute = Callable[[int, str, float], Awaitable[str]]
"""(contract_id, command, seconds) to what the command prints."""
Search = Callable[[str, str], Awaitable[str]]
"""(text, regular expression) to the lines in which it finds something, in bounded time."""

COPYING = frozenset(
    {
        *(Verb.DOOR, Verb.WITHDRAW_KEYS, Verb.COPY, Verb.COPY_KEY, Verb.CANCEL_COPY),
        *(Verb.CLOUD_COPY, Verb.CANCEL_SYNC),
    }
)
_DOING = {
    Verb.LOGS: "read the logs",
    Verb.EXECUTE: "execute a command among the files",
    Verb.SELF_TEST: "order the self-test",
    **dict.fromkeys(COPYING, "copy the files"),
}
_SMALLER = {
    Verb.LOGS: "ask again, for fewer lines",
    Verb.EXECUTE: "ask again, for a smaller folder",
    Verb.SELF_TEST: "ask again",
    **dict.fromkeys(COPYING, "copy again"),
}
Copy = Callable[[TaskRequest, Callable[[], Awaitable[CloudLogin]]], Awaitable[str]]
"""A request of `COPYING`, and what fetches the login of a cloud for it, to its result's text."""


class TaskRunner:
    """Works off what `bell` (Topic.TASKS) announces."""

    def __init__(
        self,
        database: Database,
        client: MarketplaceClient,
        clock: Clock,
        bell: asyncio.Event,
        logs: ReadLogs,
        new_backoff: Callable[[], Backoff],
        *,
        execute: Execute | None = None,
        copy: Copy | None = None,
        search: Search | None = None,
        snapshot: TakeSnapshot | None = None,
    ) -> None:
        self._database = database
        self._client = client
        self._clock = clock
        self._bell = bell
        self._logs = logs
        self._new_backoff = new_backoff
        self._execute = execute
        self._copy = copy
        self._search = search
        self._snapshots = None if snapshot is None else SnapshotTasks(client, clock, snapshot)
        self._running = Tasks()
        self._has_told_of_cut_off = False
        # A walk over many files keeps nobody from his logs.
        self._turns: WeakValueDictionary[tuple[Verb, int], asyncio.Lock] = WeakValueDictionary()
        self._slots = {verb: asyncio.Semaphore(AT_ONCE_MAX) for verb in Verb}

    async def turn(self) -> None:
        if not self._has_told_of_cut_off:
            for request in await self._database.read(lambda tx: store.cut_off(tx, Verb.SNAPSHOT)):
                self._running.start(request.task_id, self._tell_end(request, interrupted(request)))
            self._has_told_of_cut_off = True
        for request in await self._database.transaction(store.take_new):
            if request.deadline_at <= self._clock.now():
                log.info("task %s of contract %d came too late", request.verb, request.contract_id)
                continue
            self._running.start(request.task_id, self._carry_out(request))
        await wait(self._bell, None)

    async def close(self) -> None:
        await self._running.close()
        if self._snapshots is not None:
            await self._snapshots.close()

    async def answer(self, request: TaskRequest) -> TaskResult:
        """The result, within ANSWER_S whatever happens."""
        try:
            # Who asks for much waits for himself: a slot is held by one task of a contract at a time.
            async with asyncio.timeout(ANSWER_S), self._turn_of(request), self._slots[request.verb]:
                return TaskResult(shortened(await self._text(request)))
        except TimeoutError:
            return TaskResult(
                "",
                Problem(
                    "task_timeout",
                    f"cannot {_DOING[request.verb]} of contract {request.contract_id} within {ANSWER_S:.0f} s",
                    _SMALLER[request.verb],
                ),
            )
        except KaaliaError as error:
            return TaskResult("", error.problem)

    def _turn_of(self, request: TaskRequest) -> asyncio.Lock:
        """What is of no contract waits for nobody."""
        key = (request.verb, request.contract_id)
        lock = self._turns.get(key) if request.contract_id else None
        if lock is None:
            lock = self._turns[key] = asyncio.Lock()
        return lock

    async def _carry_out(self, request: TaskRequest) -> None:
        if request.verb is Verb.SNAPSHOT and self._snapshots is not None:
            await self._tell_end(request, await self._snapshots.answer(request))
        else:
            await self._deliver(request, await self.answer(request))

    async def _tell_end(self, request: TaskRequest, result: TaskResult) -> None:
        """Of what takes longer than a daemon may live: what was not told is told by the next one."""
        await self._deliver(request, result)
        await self._database.transaction(lambda tx: store.finish(tx, request.task_id))

    async def _text(self, request: TaskRequest) -> str:
        if request.verb is Verb.SELF_TEST:
            return await self._ordered(request)
        if request.verb is Verb.EXECUTE and self._execute is not None:
            return await self._executed(self._execute, request)
        if request.verb in COPYING and self._copy is not None:
            return await self._copy(request, lambda: self._client.task_cloud(request.task_id))
        if request.verb is not Verb.LOGS:
            raise KaaliaError("verb_unknown", "cannot do this task: this version of kaalia does not know it")
        story = await self._database.read(lambda tx: tell(tx, request.contract_id))
        if story is None:
            raise _unknown(request, "read logs")
        if request.daemon_logs:
            text = _last_lines(story, request.tail)
        else:
            text = await self._logs(request.contract_id, request.tail)
        if request.filter and self._search is not None and not is_simple(request.filter):
            return await self._search(text, request.filter)
        if request.filter:
            return await asyncio.to_thread(apply_filter, text, request.filter, self._clock.monotonic_s)
        return text

    async def _ordered(self, request: TaskRequest) -> str:
        """An order like the owner's: the test begins at once, or ends with why it cannot; a renter goes before it."""
        now = self._clock.now()

        def order(tx: Transaction) -> int:
            if (known := selftest.open_run(tx)) is not None:
                raise KaaliaError("selftest_under_way", f"cannot begin a self-test: number {known.run_id} is under way")
            return selftest.order(tx, SelfTestOrder(now, task_id=request.task_id)).run_id

        return f"ordered as number {await self._database.transaction(order, Topic.SELFTEST)}"

    async def _executed(self, execute: Execute, request: TaskRequest) -> str:
        text = request.command or ""
        command.parse(text)
        known = await self._database.read(contracts.all_contracts)
        if request.contract_id not in {stored.contract.contract_id for stored in known}:
            raise _unknown(request, "execute a command")
        return await execute(request.contract_id, text, EXECUTE_S)

    async def _deliver(self, request: TaskRequest, result: TaskResult) -> None:
        """Until it has arrived, or nobody waits for it any more."""
        backoff = self._new_backoff()
        while True:
            try:
                return await self._client.put_result(request.task_id, result)
            except UnreachableError as error:
                if self._clock.now() >= request.deadline_at:
                    log.warning("task %s: nobody took the result in time: %s", request.verb, error)
                    return None
                await asyncio.sleep(backoff.next_s(error))
            except MarketplaceError as error:
                log.warning("task %s: the result was refused: %s", request.verb, error)
                return None


def _unknown(request: TaskRequest, doing: str) -> KaaliaError:
    return KaaliaError("contract_unknown", f"cannot {doing}: contract {request.contract_id} is not on this machine")


def _last_lines(text: str, count: int) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[max(len(lines) - count, 0) :])
