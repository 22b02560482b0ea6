"""Keeps the GPUs' power limits and clocks as the policy wants them.

Looks when the driver was read, and when a GPU's use changes; asks the driver only when something is to be set.

What it sets is written down before, and put back when the policy ends. What fails is a condition: no tenant notices.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from kaalia.clock import MachineClock
from kaalia.config_power import PowerConfig
from kaalia.contracts import power as rules
from kaalia.contracts.power import PowerPolicy, Use, Wanted
from kaalia.errors import HostError, Problem
from kaalia.host.power import NO_DRIVER, PowerProbe
from kaalia.model.health import Condition, Severity
from kaalia.model.machine import MachineReport
from kaalia.model.power import GpuPower, PowerMark, PowerSetting
from kaalia.power.policy import in_force
from kaalia.service import run_forever
from kaalia.store import conditions, machine
from kaalia.store import power as rows
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

SOURCE = "power"
LOOK_S = 300.0
"""At the latest; the bells ring each minute."""
AGAIN_S = 60.0
"""What the driver refused is asked for once more after so long, however often the bells ring: each try is a process."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`marks`: those to be written, None: to be removed, by UUID."""

    wanted: tuple[Wanted, ...] = ()
    settings: tuple[PowerSetting, ...] = ()
    marks: Mapping[str, PowerMark | None] = field(default_factory=dict)


def plan(
    policy: PowerPolicy,
    gpus: tuple[GpuPower, ...],
    uses: Mapping[str, Use],
    marks: Mapping[str, PowerMark],
    guarded: frozenset[str],
    boot_id: str,
    *,
    is_sure: bool = True,
) -> Plan:
    """For all GPUs. Marks of another boot are void: the driver has forgotten what was set."""
    wanted, settings, changed = [], [], dict[str, PowerMark | None]()
    for gpu in gpus:
        known = marks.get(gpu.uuid)
        mark = known if known is not None and known.boot_id == boot_id else None
        want = rules.wanted(policy, gpu, uses.get(gpu.uuid, Use.IDLE), gpu.uuid in guarded)
        change, after = rules.setting(want, gpu, mark, is_sure=is_sure)
        after = None if after is None else replace(after, boot_id=boot_id)
        wanted.append(want)
        if change is not None:
            settings.append(change)
        if after != known:
            changed[gpu.uuid] = after
    there = {gpu.uuid for gpu in gpus}
    changed |= {uuid: None for uuid, mark in marks.items() if uuid not in there and mark.boot_id != boot_id}
    return Plan(tuple(wanted), tuple(settings), changed)


class PowerService:
    """Made only where the owner has a policy, or had one whose settings are still there."""

    name = "power"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: MachineClock,
        policy: PowerPolicy,
        probe: PowerProbe,
        look_s: float = LOOK_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._policy = policy
        self._probe = probe
        self._look_s = look_s
        self._bell = changes.subscribe(Topic.GPUS, Topic.CONTRACTS, Topic.WORKLOADS)
        self._gpus: tuple[GpuPower, ...] = ()
        self._guarded: frozenset[str] = frozenset()
        self._refused: Mapping[str, tuple[str, ...]] = {}
        self._refused_s: dict[PowerSetting, float] = {}
        self._is_sure = False
        self._set_at: datetime | None = None

    @classmethod
    def of(cls, database: Database, changes: Changes, clock: MachineClock, config: PowerConfig) -> Self:
        return cls(database, changes, clock, in_force(config), PowerProbe())

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        await self.look()
        await wait(self._bell, self._look_s)

    async def look(self) -> None:
        """Compare and set. Raises StoreError."""
        try:
            found = await self._look()
        except HostError as error:
            found = [] if error.code == NO_DRIVER else [_condition(error.problem, "host", "the driver answers")]
        now = self._clock.now()
        known = await self._database.read(conditions.all_open)
        told = sorted((one.condition for one in known if one.source == SOURCE), key=_order)
        if told != sorted(found, key=_order):
            await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))

    async def _look(self) -> list[Condition]:
        report, uses, marks = await self._database.read(_facts)
        if not self._gpus or {gpu.uuid for gpu in self._gpus} != _uuids(report):
            self._gpus = (await self._probe.apply()).gpus
        else:
            is_newer = report is not None and (self._set_at is None or report.collected_at > self._set_at)
            self._gpus = tuple(_as_reported(gpu, report, with_limit=is_newer) for gpu in self._gpus)
        boot_id = await asyncio.to_thread(self._clock.boot_id)
        made = plan(self._policy, self._gpus, uses, marks, self._guarded, boot_id, is_sure=self._is_sure)
        asked = {one.uuid for one in made.settings}
        others = {uuid: mark for uuid, mark in made.marks.items() if uuid not in asked}
        if self._is_worth_a_try(made):
            await self._set(made)
        elif others:
            await self._database.transaction(lambda tx: _write(tx, others))
        self._is_sure = True
        self._guarded = frozenset(want.uuid for want in made.wanted if want.is_guarded)
        return self._wrong(made)

    def _is_worth_a_try(self, made: Plan) -> bool:
        """There is something to be set that the driver did not just refuse."""
        now_s = self._clock.monotonic_s()
        self._refused_s = {one: at_s for one, at_s in self._refused_s.items() if now_s - at_s < AGAIN_S}
        return any(one not in self._refused_s for one in made.settings)

    async def _set(self, made: Plan) -> None:
        """What was there before is durable before it is changed; what is put back is forgotten after it is back."""
        await self._database.transaction(lambda tx: _write(tx, _kept(made.marks)))
        reading = await self._probe.apply(made.settings)
        self._gpus, self._refused, self._set_at = reading.gpus, reading.refused, self._clock.now()
        self._refused_s |= {one: self._clock.monotonic_s() for one in made.settings if one.uuid in reading.refused}
        back = {uuid: None for uuid, mark in made.marks.items() if mark is None and uuid not in reading.refused}
        if back:
            await self._database.transaction(lambda tx: _write(tx, back))
        for one in made.settings:
            if one.uuid not in reading.refused:
                log.info("power: %s: %s W, clocks up to %s MHz", one.uuid, one.power_w, one.clock_max_mhz)

    def _wrong(self, made: Plan) -> list[Condition]:
        found = []
        names = {gpu.uuid: f"GPU {gpu.index} ({gpu.name})" for gpu in self._gpus}
        asked = {one.uuid for one in made.settings}
        self._refused = {uuid: errors for uuid, errors in self._refused.items() if uuid in asked}
        for uuid, errors in self._refused.items():
            found.append(_condition(_refusal(names.get(uuid, uuid), errors), uuid, "the driver takes the setting"))
        for want in made.wanted:
            clears = "the policy fits the GPU"
            problems = {problem.code: problem for problem in want.problems}
            found += [_condition(problem, want.uuid, clears) for problem in problems.values()]
            if want.is_guarded:
                guarded = _guarded(names.get(want.uuid, want.uuid), want)
                found.append(_condition(guarded, want.uuid, "the GPU has cooled down"))
        return found


def _order(one: Condition) -> tuple[str, str]:
    return one.problem.code, one.scope


def _facts(tx: Transaction) -> tuple[MachineReport | None, dict[str, Use], dict[str, PowerMark]]:
    return machine.get_report(tx), rows.uses(tx), rows.marks(tx)


def _uuids(report: MachineReport | None) -> set[str]:
    return {gpu.uuid for gpu in report.gpus} if report else set()


def _as_reported(gpu: GpuPower, report: MachineReport | None, *, with_limit: bool) -> GpuPower:
    """With what the newest reading of the driver says; of the limit only if it was read after the last setting."""
    for each in report.gpus if report else ():
        if each.uuid == gpu.uuid:
            limit_w = each.power_limit_w if with_limit and each.power_limit_w is not None else gpu.limit_w
            return replace(gpu, temperature_c=each.temperature_c, limit_w=limit_w)
    return gpu


def _kept(marks: Mapping[str, PowerMark | None]) -> dict[str, PowerMark | None]:
    return {uuid: mark for uuid, mark in marks.items() if mark is not None}


def _write(tx: Transaction, marks: Mapping[str, PowerMark | None]) -> None:
    rows.put(tx, [mark for mark in marks.values() if mark], [uuid for uuid, mark in marks.items() if mark is None])


def _condition(problem: Problem, scope: str, clears_when: str) -> Condition:
    return Condition(problem, Severity.WARN, clears_when, scope)


def _refusal(name: str, errors: tuple[str, ...]) -> Problem:
    is_forbidden = any("NoPermission" in error for error in errors)
    remedy = (
        "the unit must be allowed to: a drop-in with CapabilityBoundingSet=CAP_SYS_ADMIN, see docs/power.md"
        if is_forbidden
        else "see nvidia-smi -q -d POWER,CLOCK; or remove it from the section power"
    )
    return Problem(
        "power_refused", f"cannot set power or clocks of {name}: the driver refuses", remedy, evidence=", ".join(errors)
    )


def _guarded(name: str, want: Wanted) -> Problem:
    held = f"limited to {want.power_w:g} W" if want.power_w is not None else "it cannot be limited"
    return Problem(
        "power_guarded",
        f"cannot let {name} draw what it may: it is too hot, and {held}",
        "clean fans and filters, and see that air reaches it",
    )
