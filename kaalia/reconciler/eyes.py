"""Looking: whole lists, single looks, events, and what is done while the engine does not answer."""

import asyncio
import logging
from collections.abc import Callable, Collection

from kaalia.clock import Clock
from kaalia.errors import WorkloadError
from kaalia.model.workload import WorkloadState
from kaalia.reconciler import status
from kaalia.reconciler.audit import conditions_of, hidden
from kaalia.reconciler.ledger import Ledger
from kaalia.reconciler.outages import Outages
from kaalia.reconciler.sights import Sights
from kaalia.runtime.base import ANY_CONTRACT, Runtime, SetApart
from kaalia.service import BACKOFF_S

log = logging.getLogger(__name__)

RELISTEN_S = 1.0
"""Between events that broke off and listening again."""


class Eyes:
    """Keeps `sights` and `outages` true.

    `resync_s`: between whole lists. `busy`: contracts that something is being done to. `wake` ends the sleep. `news`:
    called when the engine went away, and when it is back.
    """

    def __init__(
        self,
        runtime: Runtime,
        sights: Sights,
        ledger: Ledger,
        clock: Clock,
        resync_s: float,
        busy: Callable[[], Collection[int]],
        wake: Callable[[], None],
        news: Callable[[], None],
    ) -> None:
        self.outages = Outages()
        self._sights = sights
        self._runtime = runtime
        self._ledger = ledger
        self._clock = clock
        self._resync_s = resync_s
        self._busy = busy
        self._wake = wake
        self._news = news
        self._engine_answers = asyncio.Event()
        self._failed_looks = 0
        self._look_at_s = 0.0
        self._known_apart: frozenset[SetApart] = frozenset()

    @property
    def look_at_s(self) -> float:
        """When a whole look is due, in monotonic seconds."""
        return self._look_at_s

    def look_again(self) -> None:
        """Ask for a whole list in the next turn."""
        self._look_at_s = 0.0
        self._wake()

    async def look(self) -> None:
        """One whole list, or the news that there is none."""
        mark, busy = self._sights.mark(), set(self._busy())
        try:
            found = await self._runtime.observe()
        except WorkloadError as error:
            await self._lose_engine(error)
            return
        obscured = await self._set_apart(found.set_apart)
        await self._ledger.prove_life(conditions_of(found.set_apart))
        self._sights.complete(found.workloads, mark, busy | set(self._busy()), obscured)
        self._look_at_s = self._clock.monotonic_s() + self._resync_s
        self._failed_looks = 0
        self._engine_answers.set()
        if self.outages.is_lost:
            log.info("reconciler: the container engine answers again, %d workloads found", len(found.workloads))
            self.outages.back(self._clock.now())
            self._news()

    async def inspect_doubted(self) -> None:
        """A single look at each contract that changed, but for those in hand."""
        doubted = self._sights.doubted - set(self._busy())
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
            self._wake()

    async def listen(self) -> None:
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
                    self._wake()
        except WorkloadError as error:
            log.debug("reconciler: events broke off: %s", error)
        if has_listened:
            # The engine went away, perhaps for less time than anybody needs to see it: what ended now did not end by
            # itself.
            self.outages.lost(self._clock.now())
            self.outages.lost(self._clock.now(), (await self._ledger.books()).report)
        self.look_again()
        await asyncio.sleep(RELISTEN_S)

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
            self.outages.lost(self._clock.now(), books.report)
            self._news()
            ran = [row for row in books.workloads.values() if row.state is WorkloadState.RUNNING]
            reason = "the container engine of the machine does not answer"
            await self._ledger.tell(status.unknown(row, reason, self._clock.now()) for row in ran)
