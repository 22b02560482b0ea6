"""Looks once a minute whether the machine is well, beside its GPUs, and tells what is not. It only reads."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from kaalia.clock import MachineClock
from kaalia.contracts.slicing import all_known
from kaalia.errors import HostError
from kaalia.health.checks import docker, storage, system
from kaalia.health.debounce import Debounce
from kaalia.health.host_facts import Check, Finding, HostFacts, Moved, Silence, Unread
from kaalia.health.host_reading import HostReader
from kaalia.health.host_rules import UNREAD, condition, rules, unread
from kaalia.model.certificate import Certificate
from kaalia.model.health import Condition, OpenCondition
from kaalia.model.machine import MachineReport
from kaalia.service import run_forever
from kaalia.store import certificates, conditions, enrolment, machine, public_address
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

SOURCE = "host"
LOOK_S = 60.0
AFTER_S = 10.0
"""After the start the machine is read and tenants are found first."""
SETTLE_S = 1.0
"""After a change of mounts: a container that starts makes several."""
CHECKS: tuple[Check, ...] = (*docker.CHECKS, *storage.CHECKS, *system.CHECKS)
_OF_GPUS = frozenset({"gpu_injection_missing", "other_manager"})
"""Faults of machines with GPUs: while nobody can tell whether this is one, they stay as they were."""

log = logging.getLogger(__name__)


class Ear(Protocol):
    """It hears until it is closed."""

    def close(self) -> None: ...


class HealthService:
    """Between two looks it wakes when the machine's report or its mounts changed.

    Then only what needs no patience is judged.
    """

    name = "health"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: MachineClock,
        reader: HostReader,
        state_dir: str,
        look_s: float = LOOK_S,
        after_s: float = AFTER_S,
        hear: Callable[[Callable[[], None]], Ear] | None = None,
    ) -> None:
        """`hear`: calls back when the mounts of the machine changed. Raises HostError."""
        self._database = database
        self._clock = clock
        self._reader = reader
        self._state_dir = state_dir
        self._look_s = look_s
        self._after_s = after_s
        self._bell = changes.subscribe(Topic.MACHINE)
        self._book = rules()
        self._turns = {name: rule.turns for name, rule in self._book.rules.items()}
        self._patient = frozenset(name for name, turns in self._turns.items() if turns > 1)
        self._debounce: Debounce | None = None
        self._told: list[Condition] | None = None
        self._older_report_at: datetime | None = None
        self._data_root: str | None = None
        self._next_s = 0.0
        self._hear = hear
        self._is_settling = False

    async def run(self) -> None:
        report = await self._database.read(machine.get_report)
        if report is not None:
            self._older_report_at = report.collected_at
            self._data_root = report.engine.data_root if report.engine else None
        await wait(self._bell, self._after_s)
        ear = None
        if self._hear is not None:
            with suppress(HostError):  # then it is looked at in its turn only
                ear = self._hear(self._mounts_changed)
        try:
            await run_forever(self.name, self._turn)
        finally:
            if ear is not None:
                ear.close()
            await self._reader.close()

    def _mounts_changed(self) -> None:
        if not self._is_settling:
            self._is_settling = True
            asyncio.get_running_loop().call_later(SETTLE_S, self._have_settled)

    def _have_settled(self) -> None:
        self._is_settling = False
        self._bell.set()

    async def _turn(self) -> None:
        is_full = self._clock.monotonic_s() >= self._next_s
        if is_full:
            self._next_s = self._clock.monotonic_s() + self._look_s
        await self.look(is_full=is_full)
        await wait(self._bell, max(0.0, self._next_s - self._clock.monotonic_s()))

    async def look(self, *, is_full: bool = True) -> None:
        """One look, and what came of it. Raises StoreError."""
        facts, known = await self._facts()
        unseen = {name for check in CHECKS if _is_unread(check, facts) for name in check.ids}
        if facts.report is None:
            unseen |= {name for check in docker.CHECKS for name in check.ids}
        if facts.report is None or not (facts.report.gpus or all_known(facts.report)):
            unseen |= _OF_GPUS
        if not is_full:
            unseen |= self._patient
        if self._debounce is None:
            self._debounce = Debounce(known.told)
        found = [condition(one, self._book.rules[one.id]) for one in self._find(facts, unseen)]
        await self._tell(self._debounce.look(found, self._turns, unseen))

    def _find(self, facts: HostFacts, unseen: set[str]) -> Iterator[Finding]:
        for check in CHECKS:
            if not unseen.issuperset(check.ids):
                yield from check.find(facts, self._book.limits)
        if UNREAD not in unseen and (found := unread(facts, (name for check in CHECKS for name in check.needs))):
            yield found

    async def _facts(self) -> tuple[HostFacts, "_Stored"]:
        now = self._clock.now()
        stored = await self._database.read(_stored)
        report = stored.report if stored.report and stored.report.collected_at != self._older_report_at else None
        if report is not None and report.engine is not None:
            self._data_root = report.engine.data_root
        facts = HostFacts(
            now=now,
            state_dir=self._state_dir,
            report=report,
            data_root=self._data_root,
            silence=stored.silence if stored.silence is not None and stored.silence.since < now else None,
            moved=await self._moved(report, now),
            certificates=stored.certificates,
            made_read_only=stored.made_read_only,
            damaged=stored.damaged,
            **await self._reader.read(self._data_root),
        )
        return facts, stored

    async def _moved(self, report: MachineReport | None, now: datetime) -> Moved | None:
        address = report.network.public_ip if report is not None else None
        known = await self._database.read(public_address.get)
        if address is not None and (known is None or known.address != address):
            await self._database.transaction(lambda tx: public_address.saw(tx, address, now))
            known = await self._database.read(public_address.get)
        if known is None or not known.before or now - known.since >= timedelta(hours=self._book.limits.address_hours):
            return None
        return Moved(known.before, known.address, known.since)

    async def _tell(self, found: list[Condition]) -> None:
        if found == self._told:
            return
        now, before = self._clock.now(), {one.problem.code for one in self._told or ()}
        await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
        self._told = found
        for one in found:
            if one.problem.code not in before:
                log.warning("health: %s: %s (%s)", one.problem.code, one.problem.message, one.problem.evidence)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Rows of others, and what this service told before; devices by the kernel's own word."""

    report: MachineReport | None
    silence: Silence | None
    certificates: tuple[Certificate, ...]
    told: tuple[Condition, ...]
    made_read_only: frozenset[str]
    damaged: frozenset[str]


def _stored(tx: Transaction) -> _Stored:
    enrolled, snapshot = enrolment.get(tx), enrolment.get_snapshot(tx)
    known = conditions.all_open(tx)
    wanted = certificates.wanted(tx)
    return _Stored(
        machine.get_report(tx),
        Silence(enrolled.url, snapshot.not_after) if enrolled and snapshot else None,
        tuple(one for number, one in certificates.all_certificates(tx).items() if number in wanted),
        tuple(one.condition for one in known if one.source == SOURCE),
        *(_told_of(known, code) for code in ("filesystem_read_only", "filesystem_damaged")),
    )


def _told_of(known: Iterable[OpenCondition], code: str) -> frozenset[str]:
    """The parts of which a condition stands."""
    return frozenset(one.condition.scope for one in known if one.condition.problem.code == code)


def _is_unread(check: Check, facts: HostFacts) -> bool:
    return any(isinstance(getattr(facts, name), Unread) for name in check.needs)
