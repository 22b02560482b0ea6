"""Judges each reading of the GPUs and tells what is wrong with them. It only reads: nothing is stopped for it."""

import asyncio
import logging
from datetime import datetime

from kaalia.clock import Clock
from kaalia.health.gpu_findings import driver_words, known_after
from kaalia.health.gpu_judge import Judge
from kaalia.health.gpu_rules import Book, book
from kaalia.model.gpu_health import GpuReading, KnownGpu
from kaalia.model.health import Condition
from kaalia.model.power import PowerMark
from kaalia.service import run_forever
from kaalia.store import conditions, gpu_health, power
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

SOURCE = "gpu"
OVERDUE_S = 120.0
"""A slow driver, and an engine and a disk that hardly answer."""
AGAIN_S = 2.0
"""When the driver is to be read again for what only a second reading makes sure of."""
AFTERWARDS_S = 6.0
"""And after a change: no look at the driver may have seen what is told now, and none would see its end. Longer than
`intervals.gpus_s`, by default: what lasts until the next look is that one's."""

log = logging.getLogger(__name__)


class GpuHealthService:
    """`interval_s`: how often the GPUs are read. `overdue_s`: what a reading may take beside that."""

    name = "gpu-health"

    def __init__(
        self, database: Database, changes: Changes, clock: Clock, interval_s: float, overdue_s: float = OVERDUE_S
    ) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._bell = changes.subscribe(Topic.GPUS)
        self._interval_s = interval_s
        self._overdue_s = overdue_s
        self._judge: Judge | None = None
        self._told: list[Condition] = []
        self._judged_at: datetime | None = None

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        if self._judge is None:
            self._judge = await self._begin()
        judge = self._judge
        if await wait(self._bell, judge.book.old_after * self._interval_s + self._overdue_s):
            await self._look(judge)
        else:
            await self._tell([*judge.standing, self._overdue(judge.book)])

    async def _begin(self) -> Judge:
        """With what was told before a restart: what one reading cannot tell stays as it was."""

        def read(tx: Transaction) -> tuple[list[Condition], GpuReading | None]:
            stands = [one.condition for one in conditions.all_open(tx) if one.source == SOURCE]
            return stands, gpu_health.get(tx)

        self._told, newest = await self._database.read(read)
        judge = Judge(await asyncio.to_thread(book), self._told)
        if newest is not None:
            judge.remember(newest)
        return judge

    async def _look(self, judge: Judge) -> None:
        def read(tx: Transaction) -> tuple[GpuReading | None, tuple[KnownGpu, ...], dict[str, PowerMark]]:
            return gpu_health.get(tx), gpu_health.known(tx), power.marks(tx)

        reading, before, marks = await self._database.read(read)
        if reading is None or reading.read_at == self._judged_at:
            return
        self._judged_at = reading.read_at
        known = known_after(reading, before, judge.book)
        set_here = {uuid: mark for uuid, mark in marks.items() if mark.boot_id == reading.boot_id}
        found = await asyncio.to_thread(judge.judge, reading, known, set_here)
        if judge.is_unsure:
            self._changes.ring_later(Topic.DRIVER, AGAIN_S)
        if judge.has_changed:
            self._changes.ring_later(Topic.DRIVER, AFTERWARDS_S)
        await self._tell(found, known if known != before else None)

    async def _tell(self, found: list[Condition], known: tuple[KnownGpu, ...] | None = None) -> None:
        """Written where it is news."""
        is_news = found != self._told
        if not is_news and known is None:
            return
        now = self._clock.now()

        def write(tx: Transaction) -> None:
            if is_news:
                conditions.replace(tx, SOURCE, found, now)
            if known is not None:
                gpu_health.put_known(tx, known)

        await self._database.transaction(write)
        self._log(found)
        self._told = found

    def _log(self, found: list[Condition]) -> None:
        before = {(one.problem.code, one.scope) for one in self._told}
        after = {(one.problem.code, one.scope): one.problem for one in found}
        for key in after.keys() - before:
            log.warning("%s: %s of %s: %s (%s)", self.name, *key, after[key].message, after[key].evidence)
        for key in before - after.keys():
            log.info("%s: %s of %s is over", self.name, *key)

    def _overdue(self, book: Book) -> Condition:
        last = f"{self._judged_at:%Y-%m-%d %H:%M:%S} UTC" if self._judged_at else "none since the daemon was started"
        return driver_words(book.rules["gpu_reading_old"], f"the last reading: {last}")
