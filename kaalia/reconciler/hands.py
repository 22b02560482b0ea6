"""Doing: one action in flight a contract, tried again when it fails, given up when that is hopeless."""

import asyncio
import logging
from collections.abc import Callable, Collection

from kaalia.contracts.wish import Want, Wish
from kaalia.errors import KaaliaError, WorkloadError
from kaalia.log import about
from kaalia.model.workload import WorkloadStatus
from kaalia.reconciler.actions import Action, Launch, Record, Renew, Restart, Start
from kaalia.reconciler.execute import execute, fail, trying_again
from kaalia.reconciler.launch import Tools
from kaalia.reconciler.ledger import Books
from kaalia.reconciler.retries import Retries
from kaalia.reconciler.sights import Sights
from kaalia.runtime.base import Observed
from kaalia.service import Tasks

log = logging.getLogger(__name__)

ENGINE_UNAVAILABLE = "engine_unavailable"


class Hands:
    """`wake` ends the service's sleep, `look_again` asks for a whole list as well."""

    def __init__(self, tools: Tools, sights: Sights, wake: Callable[[], None], look_again: Callable[[], None]) -> None:
        self._tools = tools
        self._sights = sights
        self._wake = wake
        self._look_again = look_again
        self._actions = Tasks()
        self._in_flight: dict[int, Action] = {}
        self._retries = Retries()

    @property
    def is_idle(self) -> bool:
        """No action is in flight."""
        return len(self._actions) == 0

    @property
    def busy(self) -> Collection[int]:
        """Contracts with an action in flight."""
        return self._in_flight.keys()

    @property
    def launching(self) -> Collection[int]:
        """Of these, the ones that are being launched."""
        return {number for number, one in self._in_flight.items() if isinstance(one, Launch)}

    def granted(self) -> dict[str, int]:
        """GPUs by UUID that actions in flight are about to claim, and for which contract."""
        starting = (Launch, Start, Restart, Renew)
        actions = self._in_flight.items()
        return {uuid: number for number, one in actions if isinstance(one, starting) for uuid in one.gpu_uuids}

    def next_try_s(self) -> float | None:
        """Monotonic seconds of the next retry."""
        return self._retries.next_s(self._tools.clock.monotonic_s())

    def forget_failures(self, contract_id: int) -> None:
        self._retries.clear(contract_id)

    async def let_go(self) -> None:
        """Drop what is in flight; open intents are settled after the next start."""
        for tasks in (self._actions, self._tools.tasks):
            await tasks.close()

    def interrupt(self, wish: Wish) -> None:
        """A pull is not worth finishing when its contract shall not run, or not like this."""
        action = self._in_flight[wish.contract.contract_id]
        is_outdated = isinstance(action, Launch | Renew) and action.contract.generation != wish.contract.generation
        is_unwanted = wish.want in (Want.STOP, Want.YIELD, Want.END) or is_outdated
        if is_unwanted and wish.contract.contract_id in self._tools.pulling:
            self._actions.cancel(wish.contract.contract_id)

    def begin(self, contract_id: int, action: Action, books: Books) -> None:
        """Start the action, unless it is too early for another try or the machine is not known yet."""
        now_s = self._tools.clock.monotonic_s()
        if not self._retries.may_try(contract_id, action, now_s):
            return
        if isinstance(action, Launch | Renew) and books.report is None:
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
            self._wake()

    async def _give_way(
        self, contract_id: int, action: Action, row: WorkloadStatus | None, before: Observed | None, error: KaaliaError
    ) -> None:
        """An action ended with an error: wait for the engine, try again later, or give up for good."""
        now_s = self._tools.clock.monotonic_s
        if isinstance(error, WorkloadError) and error.code == ENGINE_UNAVAILABLE:
            self._retries.postpone(contract_id, action, now_s())
            self._look_again()
            return
        try:
            if isinstance(action, Launch | Start | Restart | Renew):
                if self._retries.is_hopeless(contract_id, action, error):
                    log.warning("reconciler: contract %d: %s", contract_id, error)
                    await fail(self._tools, action, row, error.problem)
                    self._retries.clear(contract_id)
                    return
                wait_s = self._retries.failed(contract_id, action, now_s())
                await self._tools.ledger.tell([trying_again(self._tools, action, row, before, wait_s)])
            else:
                wait_s = self._retries.failed(contract_id, action, now_s())
            log.warning("reconciler: contract %d, next try in %.0f s: %s", contract_id, wait_s, error)
        except KaaliaError as second:
            self._retries.failed(contract_id, action, now_s())
            log.warning("reconciler: contract %d: %s", contract_id, second)
