"""Follows the kernel's log and tells its faults as conditions. It only reads: nothing is stopped for it."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from kaalia.clock import MachineClock
from kaalia.errors import HostError, Problem
from kaalia.health.kernel_faults import conditions as standing
from kaalia.health.kernel_faults import several
from kaalia.health.kernel_lines import Catalogue, catalogue
from kaalia.host.kmsg import Batch, KernelLog, KernelRecord
from kaalia.model.gpu_health import KnownGpu
from kaalia.model.health import Condition, Severity
from kaalia.model.kernel_log import KernelFault, KernelPosition
from kaalia.model.machine import Gpu, MachineReport
from kaalia.service import run_forever
from kaalia.store import conditions, gpu_health, kernel_log, machine
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

SOURCE = "kernel"
BREATH_S = 0.02
"""Between two full batches: a flood of lines takes its turn with everything else, 25,000 lines a second at most."""
SETTLE_S = 0.5
"""After the first line of many: they are then read, and written, together."""
FLOOD_RECORDS = 200
"""At once: the kernel says so much that its buffer, a few thousand lines, would be full before a pause is over."""
WRITTEN_EVERY_RECORDS = 2000
"""How far the log was read is written with each fault, and at least so often. What is read twice counts once."""
JUDGE_S = 300.0
"""What is over by time alone is noticed so often; also when the machine's report changed."""

log = logging.getLogger(__name__)


class KernelLogService:
    """`open_log` opens the log anew; for tests."""

    name = "kernel-log"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: MachineClock,
        open_log: Callable[[], KernelLog] = KernelLog,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._open_log = open_log
        self._settle_s = settle_s
        self._bell = changes.subscribe(Topic.MACHINE)
        self._book: Catalogue
        """Files of the package, read beside the loop."""
        self._told: list[Condition] | None = None
        self._unwritten = 0

    async def run(self) -> None:
        self._book = await asyncio.to_thread(catalogue)
        await run_forever(self.name, self._follow)

    async def _follow(self) -> None:
        """Until the log cannot be read any more. Raises HostError; the next turn tries again."""
        try:
            opened = self._open_log()
        except HostError as error:
            await self._judge(error.problem)
            raise
        try:
            position = await self._database.read(kernel_log.position)
            is_same_boot = position is not None and position.boot_id == self._clock.boot_id()
            await self._read_on(opened, position.number if position and is_same_boot else -1)
        finally:
            opened.close()

    async def _read_on(self, opened: KernelLog, done: int) -> None:
        loop = asyncio.get_running_loop()
        self._told, judged_s = None, loop.time()
        while True:
            batch = opened.read()
            done = await self._take(batch, done)
            is_flood = not batch.is_last or len(batch.records) >= FLOOD_RECORDS
            if not is_flood or loop.time() - judged_s >= self._settle_s:
                await self._judge()
                judged_s = loop.time()
            if is_flood:
                await asyncio.sleep(BREATH_S)
                continue
            opened.wake(self._bell)
            if await wait(self._bell, JUDGE_S):
                await asyncio.sleep(self._settle_s)

    async def _take(self, batch: Batch, done: int) -> int:
        """Keep what the batch tells of faults; the number of its newest record."""
        if batch.was_cut:
            log.warning("%s: the kernel wrote faster than it could be read: some of its lines are lost", self.name)
        fresh = [record for record in batch.records if record.number > done]
        if not fresh:
            return done
        found = tuple(several(self._faults(fresh)))
        self._unwritten += len(fresh)
        if found or self._unwritten >= WRITTEN_EVERY_RECORDS:
            reached = KernelPosition(self._clock.boot_id(), fresh[-1].number)
            await self._database.transaction(lambda tx: kernel_log.record(tx, reached, found))
            self._unwritten = 0
        for fault in found:
            log.warning("%s: %s, %d times: %s", self.name, fault.code, fault.count, fault.text)
        return fresh[-1].number

    def _faults(self, records: Iterable[KernelRecord]) -> Iterator[KernelFault]:
        booted_at = self._clock.now() - timedelta(seconds=self._clock.boottime_s())
        for record in records:
            if (told := self._book.told(record.text)) is not None:
                at = booted_at + timedelta(seconds=record.at_s)
                yield KernelFault(told.code, told.subject, at, at, record.number, 1, record.text)

    async def _judge(self, unread: Problem | None = None) -> None:
        """What is wrong now, written where it is news: by what the log told of this boot; and why it is `unread`."""
        boot_id, now = self._clock.boot_id(), self._clock.now()

        def read(tx: Transaction) -> tuple[tuple[KernelFault, ...], MachineReport | None, tuple[KnownGpu, ...]]:
            return kernel_log.faults(tx, boot_id), machine.get_report(tx), gpu_health.known(tx)

        faults, report, known = await self._database.read(read)
        gpus: list[Gpu | KnownGpu] = [*known, *(report.gpus if report else ())]
        found = standing(faults, gpus, self._book, now)
        await self._tell([*found, *([_unread(unread, report)] if unread else [])])

    async def _tell(self, found: list[Condition]) -> None:
        if found == self._told:
            return
        now = self._clock.now()
        await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
        self._told = found


def _unread(problem: Problem, report: MachineReport | None) -> Condition:
    """It keeps new rentals out where faults of GPUs would go unseen; simulated ones tell the log nothing."""
    has_gpus = report is not None and report.driver is not None and not report.driver.simulated
    return Condition(
        Problem(
            "kernel_log_unreadable",
            f"cannot see faults that the kernel reports: {problem.message}",
            remedy="let the daemon open /dev/kmsg: as root with CAP_SYSLOG, as its systemd unit has it",
            evidence=problem.code,
        ),
        Severity.UNKNOWN,
        "the kernel's log can be read",
        blocks=has_gpus,
    )
