"""Waits for an order of a self-test, and sees it to its end. What a crash left is removed by the next start.

Most machines are tested once: what runs a test is imported with the first order.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from kaalia.clock import Clock
from kaalia.contracts.lease import LeaseTime
from kaalia.errors import KaaliaError, Problem
from kaalia.model.selftest import RunResult, SelfTestRun
from kaalia.selftest.container import Containers, Means
from kaalia.selftest.local_work import LocalWork
from kaalia.service import run_forever
from kaalia.store import selftest
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

GONE_S = 5.0
CLEAR_AGAIN_S = 60.0
"""While the engine does not let an image of a test be removed."""
INTERRUPTED = Problem(
    "selftest_interrupted",
    "cannot tell how the self-test went: the daemon ended before it did, or its state could not be written",
    remedy="run it again: kaalia self-test machine",
)

Test = Callable[[SelfTestRun, LocalWork, Containers], Awaitable[object]]
"""Sees one run to its end."""


class SelfTestService:
    """One loop; one run at a time. `test`: makes what runs them, when the first is ordered."""

    name = "selftest"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        lease_time: Callable[[], LeaseTime],
        means: Means,
        test: Callable[[], Test],
    ) -> None:
        self._database = database
        self._clock = clock
        self._work = LocalWork(database, changes, clock, lease_time, selftest.PURPOSE)
        self._containers = Containers(database, clock, self._work, means)
        self._is_clear = False
        self._bell = changes.subscribe(Topic.SELFTEST)
        self._make = test
        self._test: Test | None = None
        self._begun = 0

    async def run(self) -> None:
        await self._database.transaction(self._end_interrupted, Topic.SELFTEST)
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        if not await self._work.sweep():
            await self._work.news(GONE_S)
            return
        await self._clear()
        run = await self._database.read(selftest.open_run)
        if run is None:
            is_clear = self._is_clear or self._containers.notebook is None
            await wait(self._bell, None if is_clear else CLEAR_AGAIN_S)
            return
        if run.run_id == self._begun and not waits_on(run):  # its end could not be written then, as on a full disk
            await self._database.transaction(self._end_interrupted, Topic.SELFTEST)
            return
        self._begun = run.run_id
        if self._test is None:
            self._test = await asyncio.to_thread(self._make)
        self._is_clear = False
        await self._test(run, self._work, self._containers)

    async def _clear(self) -> None:
        """No container is left that an image was made for."""
        means = self._containers.notebook
        if means is None or self._is_clear:
            return
        try:
            await means.clear()
            self._is_clear = True
        except KaaliaError as error:
            log.info("self-test: an image of it may still be there: %s", error)

    def _end_interrupted(self, tx: Transaction) -> None:
        """Whoever ordered it has seen the daemon go; what a marketplace wants waits on."""
        for run in selftest.open_runs(tx):
            if not waits_on(run):
                now = self._clock.now()
                selftest.put(tx, replace(run, ended_at=now, result=RunResult.NOT_RUN, problem=INTERRUPTED))


def waits_on(run: SelfTestRun) -> bool:
    """Nobody sits before it, so that an end of the daemon is none of its own."""
    return bool(run.order.task_id) and run.began_at is None
