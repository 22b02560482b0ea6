"""One run of the self-test, from its order to its end: what it needs is booked, its steps are run, all is given back.

The contract that holds the GPUs is of the lowest rank. While steps run it is watched: the moment somebody of higher
rank gets its GPUs, or a tenant's workload is about to run, the step is broken off and its children are killed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from kaalia.clock import Clock
from kaalia.contracts import selftest as rules
from kaalia.contracts.canary import Room
from kaalia.contracts.lease import LeaseTime
from kaalia.contracts.selftest import Sight
from kaalia.errors import ContractError, KaaliaError, Problem
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import RunResult, SelfTestProgress, SelfTestRun, StepName, StepResult
from kaalia.model.workload import WorkloadState
from kaalia.selftest import sight, verdict
from kaalia.selftest.container import Containers
from kaalia.selftest.local_work import GAVE_WAY, LocalWork
from kaalia.selftest.login import LogIn, log_in
from kaalia.selftest.notebook import Ask, ask
from kaalia.selftest.programs import Programs
from kaalia.selftest.registry import STEPS
from kaalia.selftest.service import INTERRUPTED, waits_on
from kaalia.selftest.step import Here, Need, Settings, Step, failed, failed_by, skipped
from kaalia.service import guarded
from kaalia.store import outbox, selftest, speed, workloads
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind
from kaalia.wire.selftest import notice

log = logging.getLogger(__name__)

WAIT_S = 60.0
"""For what is in the way and may be over in a moment."""
PATIENT_LOOK_S = 30.0
"""What a marketplace asked for may wait for weeks."""
LOOK_S = 1.0
"""A bell ends the wait sooner; so often the progress is written."""
_BREAKS = frozenset({GAVE_WAY, rules.GAVE_WAY, "state_disk_full", "state_unavailable"})
"""Errors that say nothing of the step in which they come."""


@dataclass(frozen=True, slots=True)
class Trials:
    """What all runs of this daemon share."""

    database: Database
    changes: Changes
    clock: Clock
    lease_time: Callable[[], LeaseTime]
    settings: Settings = field(default_factory=Settings)
    programs: Programs = field(default_factory=Programs)
    steps: Mapping[StepName, Step] = field(default_factory=lambda: STEPS)
    probe: NvmlProbe | None = None
    log_in: LogIn = log_in
    ask: Ask = ask

    async def test(self, run: SelfTestRun, work: LocalWork, containers: Containers) -> SelfTestRun:
        """One run to its end, which is stored whatever happens. Raises StoreError when it cannot be."""
        return await _Trial(run, self, work, containers).run()


class _Trial:
    """One run."""

    def __init__(self, run: SelfTestRun, trials: Trials, work: LocalWork, containers: Containers) -> None:
        self._run = run
        self._trials = trials
        self._database = trials.database
        self._clock = trials.clock
        self._work = work
        self._containers = containers
        self._plan = rules.plan(run.order, trials.steps)
        self._progress: SelfTestProgress | None = None
        self._shown: SelfTestProgress | None = None
        self._well: frozenset[str] = frozenset()

    async def run(self) -> SelfTestRun:
        problem: Problem | None = INTERRUPTED
        here: Here | None = None
        ends = True
        bell = self._trials.changes.subscribe(Topic.SELFTEST, Topic.WORKLOADS)
        try:
            here = await self._admitted(bell)
            self._run = replace(self._run, began_at=self._clock.now())
            await self._store()
            await guarded(self._tested(here), self._watch(here, bell))
            problem = None
        except KaaliaError as error:
            problem = error.problem
            log.info("self-test %d: %s", self._run.run_id, error)
        except asyncio.CancelledError:
            ends = not waits_on(self._run)
            raise
        finally:
            self._trials.changes.unsubscribe(bell)
            if ends:
                self._run = await self._ended(here, problem)
        return self._run

    async def _admitted(self, bell: asyncio.Event) -> Here:
        """What the steps have; waits a moment for what is in the way. Raises ContractError."""
        takes_gpus = any(self._trials.steps[name].needs for name in self._plan)
        deadline_s = self._clock.monotonic_s() + WAIT_S
        while True:
            is_cancelled, (seen, room) = await self._database.read(self._look)
            if is_cancelled:
                raise _cancelled()
            obstacle = rules.obstacle(seen, takes_gpus=takes_gpus)
            if obstacle is None and seen.report is not None:
                self._well = seen.well
                return self._here(seen.report, room)
            is_patient = bool(self._run.order.task_id)  # nobody sits before it
            may_wait = obstacle is not None and obstacle.passes and self._clock.monotonic_s() < deadline_s
            if obstacle is not None and not (is_patient or may_wait):
                why = obstacle.problem
                raise ContractError(why.code, why.message, remedy=why.remedy, evidence=why.evidence)
            await wait(bell, PATIENT_LOOK_S if is_patient else LOOK_S)

    def _look(self, tx: Transaction) -> tuple[bool, tuple[Sight, Room]]:
        is_cancelled = selftest.is_cancelled(tx, self._run.run_id)
        return is_cancelled, sight.look(tx, time_problem=not self._trials.lease_time().is_certain)

    def _here(self, report: MachineReport, room: Room) -> Here:
        return Here(
            order=self._run.order,
            report=report,
            room=room,
            settings=self._trials.settings,
            clock=self._clock,
            database=self._database,
            changes=self._trials.changes,
            containers=self._containers,
            programs=self._trials.programs,
            tell=self._tell,
            probe=self._trials.probe,
            log_in=self._trials.log_in,
            ask=self._trials.ask,
        )

    async def _tested(self, here: Here) -> None:
        async with AsyncExitStack() as stack:
            is_booked = False
            for name in self._plan:
                step = self._trials.steps[name]
                self._progress = SelfTestProgress(name, None, "", len(self._run.steps), len(self._plan))
                if step.needs and not is_booked:
                    is_booked = True
                    await self._book(here, stack)
                found = await self._one(step, here)
                self._run = replace(self._run, steps=(*self._run.steps, found))
                await self._store()

    async def _book(self, here: Here, stack: AsyncExitStack) -> None:
        """Contracts of its own that hold the GPUs until the end. What does not come up is the launch's failure."""
        self._tell(None, "its container is launched")
        lasts = rules.lasts(here.order)
        try:
            here.running = await stack.enter_async_context(self._containers.running(here.report, here.room, lasts))
        except KaaliaError as error:
            here.why_none = await self._why_none(error)
            return
        booked = {uuid for row in here.running.rows for uuid in row.gpu_uuids}
        here.gpus = tuple(gpu for gpu in here.report.gpus if gpu.uuid in booked)

    async def _why_none(self, error: KaaliaError) -> KaaliaError:
        """Why no container came up. Raises KaaliaError that breaks the test off: a renter has what it wanted."""
        if error.code != GAVE_WAY:
            if error.code in _BREAKS:
                raise error
            return error
        _, (seen, _) = await self._database.read(self._look)
        if gone := self._well - seen.well:
            return rules.lost(gone, error.problem.message)
        raise rules.gave_way((), error.problem.message) from error

    async def _one(self, step: Step, here: Here) -> StepResult:
        if Need.GPUS in step.needs and (why := self._why_no_gpus(here)):
            return skipped(step.name, why)
        began_s, limit_s = self._clock.monotonic_s(), step.limit(here.order)
        try:
            async with asyncio.timeout(limit_s):
                found = await step.work(here)
        except TimeoutError:
            words = f"cannot finish the step {step.name} within {limit_s:g} s"
            found = failed(step.name, "selftest_step_late", words, "see: kaalia doctor; dmesg")
        except KaaliaError as error:
            if error.code in _BREAKS:
                raise
            found = failed_by(step.name, error, "see: kaalia doctor")
        took_s = round(self._clock.monotonic_s() - began_s, 2)
        log.info("self-test: %s %s after %.1f s: %s", step.name, found.outcome, took_s, found.words)
        return replace(found, took_s=took_s)

    def _why_no_gpus(self, here: Here) -> str:
        if self._trials.programs.stuck is not None:
            return f"process {self._trials.programs.stuck} of an earlier step hangs in the driver"
        if here.gpus:
            return ""
        if not here.report.gpus:
            return "this machine has no GPU"
        return "no GPU could be booked: its container did not come up" if here.why_none else "no GPU is well"

    async def _watch(self, here: Here, bell: asyncio.Event) -> None:
        """Never ends by itself. Raises ContractError: somebody comes, or the owner wants the end."""
        while True:
            await self._database.read(self._see)
            for row in here.running.rows if here.running else ():
                await self._still(row.contract_id)
            await self._show()
            await wait(bell, LOOK_S)

    async def _show(self) -> None:
        shown = self._progress
        if shown is not None and shown != self._shown:
            await self._database.transaction(lambda tx: selftest.put_progress(tx, shown))
            self._shown = shown

    def _see(self, tx: Transaction) -> None:
        if selftest.is_cancelled(tx, self._run.run_id):
            raise _cancelled()
        if comers := speed.awake_tenants(tx):
            raise rules.gave_way(sorted(comers))

    async def _still(self, number: int) -> None:
        """An engine that is away takes nothing from anybody."""
        row = await self._database.read(lambda tx: workloads.get(tx, number))
        if row is not None and row.state is WorkloadState.UNKNOWN:
            return
        try:
            await self._work.still(number)
        except ContractError as error:
            raise rules.gave_way((), error.problem.message) from error

    def _tell(self, share: float | None, words: str) -> None:
        if self._progress is not None:
            self._progress = replace(self._progress, share=share, words=words)

    async def _store(self) -> None:
        run, progress = self._run, self._progress

        def work(tx: Transaction) -> None:
            selftest.put(tx, run)
            if progress is not None:
                selftest.put_progress(tx, progress)

        await self._database.transaction(work)

    async def _ended(self, here: Here | None, problem: Problem | None) -> SelfTestRun:
        """Stored, and told to the marketplace where a whole test came to a verdict."""
        now = self._clock.now()
        broken_off = replace(self._run, ended_at=now, problem=problem, result=RunResult.NOT_RUN)

        def work(tx: Transaction) -> SelfTestRun:
            run = broken_off
            if problem is None and here is not None:
                found = () if run.order.only else verdict.judge(tx, here.report, run.steps, now)
                run = rules.ended(run, found)
            selftest.put(tx, run)
            if here is not None and here.samples:
                selftest.add_samples(tx, run.run_id, tuple(here.samples))
            if here is not None and run.result is not RunResult.NOT_RUN and not run.order.only:
                outbox.add(tx, MessageKind.SELFTEST, document.encode(notice(run, here.report)), now)
            return run

        return await self._database.transaction(work, Topic.SELFTEST, Topic.OUTBOX)


def _cancelled() -> ContractError:
    return ContractError(
        "selftest_cancelled", "cannot go on with the self-test: it was broken off", remedy="run it again"
    )
