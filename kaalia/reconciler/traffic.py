"""Counts what tenants send to the internet and get from it, for as long as a contract has its network.

A look reads all counters at once, every minute, and when a contract gets its network, gives it back or comes to rest.
It blocks nobody: what cannot be counted runs, is told as a condition of source `traffic`, and costs nothing.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from kaalia.clock import Clock
from kaalia.contracts import traffic as rules
from kaalia.contracts.local import is_local
from kaalia.contracts.traffic import Tally
from kaalia.errors import HostError, Problem
from kaalia.model.health import Condition, Severity
from kaalia.model.traffic import Counter
from kaalia.model.workload import WorkloadState
from kaalia.pulse import PULSE
from kaalia.runtime.base import Counters, TrafficCounters
from kaalia.service import run_forever
from kaalia.store import changes as bells
from kaalia.store import claims, conditions, contracts, journal, traffic, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

SOURCE = "traffic"
LOOK_S = 60.0
_RESTS = (
    WorkloadState.WAITING,
    WorkloadState.REJECTED,
    WorkloadState.STOPPED,
    WorkloadState.EXITED,
    WorkloadState.FAILED,
    WorkloadState.ENDED,
)


@dataclass(frozen=True, slots=True)
class Counting:
    """A contract with a network of its own."""

    subnet: str
    generation: int
    state: WorkloadState

    @property
    def rests(self) -> bool:
        return self.state in _RESTS


@dataclass
class _Plan:
    """What the counters must become."""

    keep: list[Counter] = field(default_factory=list)
    add: list[Counter] = field(default_factory=list)
    drop: list[Counter] = field(default_factory=list)
    lines: int = 0


class TrafficService:
    """`new_epoch` names a counter; for tests."""

    name = "traffic"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        counters: TrafficCounters,
        clock: Clock,
        look_s: float = LOOK_S,
        new_epoch: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        self._database = database
        self._changes = changes
        self._counters = counters
        self._clock = clock
        self._look_s = look_s
        self._new_epoch = new_epoch
        self._bell = changes.subscribe(Topic.WORKLOADS)
        self._served: dict[int, Counting] = {}
        self._may_rest = False
        """Nothing was there at the last look: without a contract there is nothing to look at."""
        self._told: str | None = None

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        look_at_s = self._clock.monotonic_s() + self._look_s
        with PULSE.turn(self.name):
            await self.look()
        while (left_s := look_at_s - self._clock.monotonic_s()) > 0:
            if not await bells.wait(self._bell, left_s):
                return
            before, self._served = self._served, await self._database.read(_wanted)
            if _is_news(before, self._served):
                return

    async def look(self) -> None:
        """One look at everything."""
        self._served = wanted = await self._database.read(_wanted)
        if not wanted and self._may_rest:
            return
        try:
            found = await self._counters.read()
            plan = await self._database.transaction(lambda tx: self._record(tx, found))
            if plan.lines:
                self._changes.ring(Topic.OUTBOX)
            if not found.is_whole and plan.add:
                await self._counters.build(plan.add)
            elif plan.add or plan.drop:
                await self._counters.change(plan.add, plan.drop)
        except HostError as error:
            self._may_rest = False
            await self._tell(error.problem)
            return
        self._may_rest = not (found.readings or plan.add or plan.keep)
        await self._tell(None)

    def _record(self, tx: Transaction, found: Counters) -> _Plan:
        """Add what was counted to the sums, write the lines that are due, and decide who is counted how from now on.

        The counters of the plan stand in the books before they are made: none of them is ever unknown.
        """
        now, plan, wanted = self._clock.now(), _Plan(), _wanted(tx)
        readings = {one.counter: one for one in found.readings}
        known = traffic.all_tallies(tx)
        for number in sorted(known.keys() | wanted.keys()):
            one, before = wanted.get(number), known.get(number)
            tally = before
            if tally is not None and (reading := readings.get(tally.counter)) is not None:
                tally = rules.counted(tally, reading.raw, now, reading.relayed)
            if one is not None:
                tally = self._serve(number, one, tally, found, plan, now)
            if tally is None:
                continue
            if rules.is_due(tally, now, rests=one is None or one.rests):
                entries, tally = rules.lines(tally, now, one.state if one else "gone")
                journal.count(tx, entries, now)
                plan.lines += len(entries)
            if before is None or _is_worth_writing(before, tally):
                traffic.put(tx, tally)
            if one is None and contracts.get(tx, number) is None:
                traffic.delete(tx, number)
        plan.drop = [counter for counter in readings if counter not in plan.keep]
        return plan

    def _serve(
        self, number: int, one: Counting, tally: Tally | None, found: Counters, plan: _Plan, now: datetime
    ) -> Tally:
        """The tally with the counter that counts for the contract from now on."""
        is_counted = tally is not None and any(tally.counter == reading.counter for reading in found.readings)
        if tally is not None and is_counted and found.is_whole and tally.counter.subnet == one.subnet:
            plan.keep.append(tally.counter)
            return replace(tally, generation=one.generation)
        counter = Counter(number, one.subnet, self._new_epoch())
        plan.add.append(counter)
        return (
            rules.begun(counter, one.generation, now)
            if tally is None
            else rules.renewed(tally, counter, one.generation)
        )

    async def _tell(self, problem: Problem | None) -> None:
        code = problem.code if problem else ""
        if code == self._told:
            return
        found = [] if problem is None else [_uncounted(problem)]
        now = self._clock.now()
        await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
        self._told = code
        if problem is not None:
            log.warning("traffic: it is not counted: %s (%s)", problem.message, problem.evidence)


def _wanted(tx: Transaction) -> dict[int, Counting]:
    """The contracts of renters that have a network, by id."""
    states = {number: row.state for number, row in workloads.all_workloads(tx).items()}
    return {
        claim.contract_id: Counting(claim.key, claim.generation, states.get(claim.contract_id, WorkloadState.WAITING))
        for claim in claims.all_claims(tx)
        if claim.kind is ClaimKind.SUBNET and not is_local(claim.contract_id) and contracts.get(tx, claim.contract_id)
    }


def _is_news(before: dict[int, Counting], now: dict[int, Counting]) -> bool:
    """A network came or went, or a workload came to rest."""
    if before.keys() != now.keys():
        return True
    pairs = ((before[number], one) for number, one in now.items())
    return any(old.subnet != one.subnet or (one.rests and not old.rests) for old, one in pairs)


def _is_worth_writing(before: Tally, after: Tally) -> bool:
    """Of an idle workload every reading says the same."""
    is_idle = before.total == after.total == before.before == after.before
    return not (is_idle and _marks(before) == _marks(after))


def _marks(tally: Tally) -> tuple[object, ...]:
    return tally.counter, tally.raw, tally.relayed, tally.told


def _uncounted(problem: Problem) -> Condition:
    return Condition(
        Problem(
            "traffic_uncounted",
            f"cannot count the internet traffic of contracts: {problem.message}",
            remedy=problem.remedy,
            evidence=problem.evidence or problem.code,
        ),
        Severity.WARN,
        "the counters can be read; what went meanwhile without counters is charged to nobody",
    )
