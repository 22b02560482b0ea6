"""Runs the machine's own test container when it is due, and tells what is wrong until it passes.

    due ──▶ contracts of its own ──▶ the reconciler launches them ──▶ asked from here, and what they say is read
     ▲                                          │ somebody of higher rank comes            │
     └──────────── tried again ◀────────────────┴──── ended, and proven gone ◀─────────────┘

It takes GPUs that nobody has and stops nobody. What a crash leaves is ended by the next start.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import timedelta

from kaalia import __version__
from kaalia.clock import Clock
from kaalia.contracts import canary as rules
from kaalia.contracts import fitness
from kaalia.contracts.canary import Room
from kaalia.contracts.lease import LeaseTime
from kaalia.errors import KaaliaError
from kaalia.model.canary import CanaryRun, CanaryState, Cause, Step, StepResult
from kaalia.model.health import Condition
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import Outcome
from kaalia.selftest.container import Containers, Means
from kaalia.selftest.local_work import GAVE_WAY, LocalWork
from kaalia.service import run_forever
from kaalia.store import canary, claims, conditions, contracts, machine, speed
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

WAIT_S = 30.0
"""While something is in the way of a run that is due, it is looked at again this often."""
TENANTS_S = 300.0
GONE_S = 5.0
_NO_VERDICT = frozenset({GAVE_WAY, "engine_unavailable", "state_disk_full", "state_unavailable"})
"""Ends of a run that say nothing of what it is to prove."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`every` None: only when it is asked for. `boot_id`: of this boot, "" where the kernel does not say."""

    every: timedelta | None
    boot_id: str


@dataclass(frozen=True, slots=True)
class Sight:
    """What one turn decides from. `report` None: not of this boot and this kaalia yet."""

    state: CanaryState
    report: MachineReport | None
    room: Room
    rented: int


class CanaryService:
    """Proves the machine when it is due, and tells what is wrong."""

    name = "canary"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        lease_time: Callable[[], LeaseTime],
        wanted: Wanted,
        means: Means,
    ) -> None:
        self._database = database
        self._clock = clock
        self._lease_time = lease_time
        self._wanted = wanted
        self._work = LocalWork(database, changes, clock, lease_time, canary.SOURCE)
        self._containers = Containers(database, clock, self._work, means)
        self._bell = changes.subscribe(Topic.CANARY, Topic.MACHINE)
        self._told: list[Condition] | None = None

    async def run(self) -> None:
        await self._change(lambda state: replace(state, running_since=None))
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        if not await self._work.sweep():
            await self._work.news(GONE_S)
            return
        seen = await self._database.read(self._look)
        now, need = self._clock.now(), self._need(seen)
        due = rules.next_at(seen.state, need, self._wanted.every, news=self._is_news(seen))
        cause, at = due or (None, None)
        why_not = self._why_not(seen, cause)
        is_time = cause is not None and (at is None or at <= now)
        state = await self._change(lambda one: replace(one, waits_for=_waits_for(one, why_not, is_time=is_time)))
        await self._tell(state, need)
        if cause is not None and is_time and not why_not and seen.report is not None:
            await self._test(cause, seen.report, seen.room)
        elif is_time:
            await wait(self._bell, TENANTS_S if cause is Cause.IDLE else WAIT_S)
        else:
            await wait(self._bell, None if at is None else max((at - now).total_seconds(), 1.0))

    def _look(self, tx: Transaction) -> Sight:
        report = machine.get_report(tx)
        if report is not None and not self._is_fresh(report):
            report = None
        owners = {one.key: one.contract_id for one in claims.all_claims(tx) if one.kind is ClaimKind.GPU}
        kinds = {one.contract.contract_id: one.contract.kind for one in contracts.all_contracts(tx)}
        rented = speed.tenants(tx, self._clock.now()).running
        unfit = fitness.kept_from_tests(fitness.of_gpus(fitness.faults(conditions.all_open(tx))))
        if report is None:
            return Sight(canary.get(tx), None, Room(why_not="the machine is looked at"), rented)
        room = rules.room(report, owners, kinds, rented, unfit)
        return Sight(canary.get(tx), report, room, rented)

    def _is_fresh(self, report: MachineReport) -> bool:
        return report.agent_version == __version__ and report.system.boot_id == self._wanted.boot_id

    def _need(self, seen: Sight) -> Cause | None:
        if self._wanted.every is None:
            return None
        passed = seen.state.passed
        if seen.report is not None:
            return rules.needed(seen.state, rules.versions(seen.report), self._wanted.boot_id)
        known = rules.versions_of(passed, __version__)
        return rules.needed(seen.state, known, self._wanted.boot_id)

    def _is_news(self, seen: Sight) -> bool:
        return seen.report is not None and rules.is_news(seen.state, rules.versions(seen.report), self._wanted.boot_id)

    def _why_not(self, seen: Sight, cause: Cause | None) -> str:
        if seen.room.why_not:
            return seen.room.why_not
        if seen.report is None or seen.report.engine is None:
            return "Docker does not answer"
        if not self._lease_time().is_certain:
            return "the time of the machine is not confirmed"
        return "tenants run: an idle machine proves itself" if cause is Cause.IDLE and seen.rented else ""

    async def _test(self, cause: Cause, report: MachineReport, room: Room) -> None:
        began_at = self._clock.now()
        before = await self._change(
            lambda one: replace(one, running_since=began_at, asked_at=None, gave_way_at=began_at)
        )
        tried: tuple[str, ...] = ()
        try:
            steps, tried = await self._steps(report, room, [one.uuid for one in before.broken])
        except KaaliaError as error:
            if error.code in _NO_VERDICT:
                log.info("canary: broken off: %s", error)
                await self._broken_off(cause, str(error.problem.message))
                return
            steps = (StepResult(Step.LAUNCH, Outcome.FAILED, str(error)),)
        finally:
            await self._change(lambda one: replace(one, running_since=None))
        ended_at, with_versions = self._clock.now(), rules.versions(report)
        found = CanaryRun(cause, began_at, ended_at, self._wanted.boot_id, with_versions, steps, tried)
        need = self._need(await self._database.read(self._look))
        shown = [gpu.uuid for gpu in report.gpus]
        state = await self._change(lambda one: rules.after(one, found, need, shown))
        say = log.info if found.has_passed else log.warning
        say("canary: %s", "; ".join(f"{one.step} {one.outcome}: {one.words}" for one in steps))
        await self._tell(state, self._need(await self._database.read(self._look)))

    async def _broken_off(self, cause: Cause, why: str) -> None:
        """It is tried again; who asked for it still waits."""
        now = self._clock.now()
        asked_at = now if cause is Cause.ASKED else None
        await self._change(lambda one: replace(one, gave_way_at=now, waits_for=why, asked_at=one.asked_at or asked_at))

    async def _steps(
        self, report: MachineReport, room: Room, broken: Collection[str]
    ) -> tuple[tuple[StepResult, ...], tuple[str, ...]]:
        """How each step went, and the GPUs that it had. `broken`: known to be.

        Raises KaaliaError when the container does not come up, `test_gave_way` when somebody else comes.
        """
        async with self._containers.running(report, room) as found:
            steps = await self._containers.proven(found, report, room)
        tried = tuple(uuid for row in found.rows for uuid in row.gpu_uuids)
        return tuple(rules.judged(one, tried, broken, len(report.gpus)) for one in steps), tried

    async def _change(self, how: Callable[[CanaryState], CanaryState]) -> CanaryState:
        return await self._database.transaction(lambda tx: canary.change(tx, how))

    async def _tell(self, state: CanaryState, need: Cause | None) -> None:
        found = [] if self._wanted.every is None else rules.conditions(state, need)
        if found == self._told:
            return
        now = self._clock.now()
        await self._database.transaction(lambda tx: conditions.replace(tx, canary.SOURCE, found, now))
        self._told = found


def _waits_for(state: CanaryState, why_not: str, *, is_time: bool) -> str:
    """What stands in the way of a run that is due; after one that gave way that, until the next."""
    if is_time:
        return why_not
    return state.waits_for if state.gave_way_at is not None else ""
