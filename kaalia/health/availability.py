"""Keeps the ledger of this machine's outages: what kept renters from it, when, for how long, by whose fault.

At its start it looks where the daemon was: a machine that has booted since was off, one that has not lost its daemon
only. While it runs it looks a few times a minute: which parts are out of order, by the conditions and the report;
whether the marketplace was heard of, and if not, whether anything else on the internet is. Lengths go by the age of
the boot, so that a clock that is set neither makes nor hides an outage; how long a machine was off is known when the
time is certain again. It only writes down: nothing is stopped or refused for it.
"""

import asyncio
import logging
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from kaalia.clock import MachineClock
from kaalia.contracts import outages as rules
from kaalia.contracts.contract import OWN_KINDS
from kaalia.contracts.lease import Anchor, LeaseTime, Reading
from kaalia.contracts.outages import Owner, Pending
from kaalia.model.availability import OFFLINE_AFTER_S, Cause, Outage
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState
from kaalia.service import run_forever
from kaalia.store import availability as ledger
from kaalia.store import conditions, contracts, enrolment, machine, maintenance, workloads
from kaalia.store.availability import Contact, Stop, StoredOutage
from kaalia.store.database import Database, Transaction

log = logging.getLogger(__name__)

LOOK_S = 15.0
_CATALOGUE = Path(__file__).with_name("outages.toml")
_PARTS = (Cause.DOCKER, Cause.DRIVER)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store says of this machine at one moment."""

    is_enrolled: bool
    contact: Contact
    parts: dict[Cause, str]
    open: tuple[StoredOutage, ...]


class AvailabilityService:
    """`before`: what was known of time when the daemon started; `is_internet_there`: asks not the marketplace."""

    name = "availability"

    def __init__(
        self,
        database: Database,
        clock: MachineClock,
        lease_time: Callable[[], LeaseTime],
        before: Anchor | None,
        is_internet_there: Callable[[], Awaitable[bool]],
        offline_after_s: float = OFFLINE_AFTER_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._lease_time = lease_time
        self._before = before
        self._is_internet_there = is_internet_there
        self._offline_after_s = offline_after_s
        self._pending: list[Pending] = []
        self._looked: Reading | None = None
        self._looked_s = 0.0
        self._posts = -1
        self._heard_s = 0.0

    async def run(self) -> None:
        await self.start()
        await run_forever(self.name, self._turn)

    async def start(self) -> None:
        """Where was the daemon until now? What was open when it went ended with it, or will be found open again."""
        reading = self._read()
        self._heard_s = reading.boottime_s
        self._remember(reading)
        before, began = self._before, self._now()

        def find(tx: Transaction) -> list[Pending]:
            stop, older = ledger.get_stop(tx), ledger.get_pending(tx)
            marked = None if stop is None else (stop.boot_id, stop.at_s)
            found = rules.absence(before, marked, reading, _owner(tx))
            for one in ledger.open_outages(tx):
                ended_at = began if found is None else max(one.outage.begin_at, found.begin_at)
                ledger.end(tx, one.number, one.outage.begin_at, ended_at)
            ledger.put_stop(tx, None)
            fresh = [] if found is None else [Pending(found, reading.boot_id, reading.boottime_s)]
            pending = [one for one in (older, *fresh) if one is not None and one.boot_id == reading.boot_id]
            ledger.put_pending(tx, next((one for one in pending if not _is_within_boot(one)), None))
            return pending

        self._pending = await self._database.transaction(find)
        await self._settle(reading)

    async def stopped(self) -> None:
        """The daemon was told to stop: its absence from now on is no crash."""
        stop = Stop(self._clock.boot_id(), self._clock.boottime_s())
        await self._database.transaction(lambda tx: ledger.put_stop(tx, stop))

    async def look(self) -> None:
        """One look at everything."""
        reading = self._read()
        await self._settle(reading)
        await self._notice_sleep(reading)
        seen = await self._database.read(_see)
        if seen.contact.posts != self._posts:
            self._posts, self._heard_s = seen.contact.posts, reading.boottime_s
        await self._judge_parts(seen, reading)
        await self._judge_silence(seen, reading)
        self._remember(reading)

    async def _turn(self) -> None:
        await self.look()
        await asyncio.sleep(LOOK_S)

    async def _settle(self, reading: Reading) -> None:
        """Write down the absence before this start, as soon as its length is known."""
        time = self._lease_time()
        for one in [each for each in self._pending if time.is_certain or _is_within_boot(each)]:
            absent, back_at = one.absence, time.latest_at - timedelta(seconds=reading.boottime_s - one.back_s)
            begin_at = rules.begun_at(one, back_at)
            await self._write(absent.cause, begin_at, back_at, absent.boot_id, absent.begin_s, absent.detail)
            self._pending.remove(one)
            if not _is_within_boot(one):
                await self._database.transaction(lambda tx: ledger.put_pending(tx, None))

    async def _notice_sleep(self, reading: Reading) -> None:
        before = self._looked
        if before is None:
            return
        older_s, ran_s = reading.boottime_s - before.boottime_s, self._clock.monotonic_s() - self._looked_s
        if rules.has_slept(older_s, ran_s):
            now = self._now()
            self._heard_s += older_s - ran_s  # nobody was asked meanwhile
            await self._write(
                Cause.POWER,
                now - timedelta(seconds=older_s - ran_s),
                now,
                reading.boot_id,
                before.boottime_s,
                "the machine slept",
            )

    async def _judge_parts(self, seen: Seen, reading: Reading) -> None:
        """Docker and the driver, which the machine knows of by itself."""
        for part in _PARTS:
            row = _newest(seen, part)
            if part in seen.parts and row is None:
                await self._begin(part, reading.boottime_s, reading, seen.parts[part])
            elif part not in seen.parts and row is not None:
                await self._end(row, reading)

    async def _judge_silence(self, seen: Seen, reading: Reading) -> None:
        """Nothing of the marketplace for longer than it waits itself."""
        rows = [one for one in seen.open if one.outage.cause not in _PARTS]
        is_silent = seen.is_enrolled and reading.boottime_s - self._heard_s > self._offline_after_s
        if is_silent and not rows:
            contact = seen.contact
            is_there = contact.was_reached or await self._is_internet_there()
            cause = Cause.PLATFORM if is_there else Cause.NET
            await self._begin(cause, self._heard_s, reading, contact.failure or "no post was answered")
        elif not is_silent:
            for row in rows:
                await self._end(row, reading)

    async def _begin(self, cause: Cause, begin_s: float, reading: Reading, detail: str) -> None:
        begin_at = self._now() - timedelta(seconds=reading.boottime_s - begin_s)
        await self._write(cause, begin_at, None, reading.boot_id, begin_s, detail)

    async def _end(self, row: StoredOutage, reading: Reading) -> None:
        """A silence ended when the marketplace was heard of, a part's outage now."""
        is_silence = row.outage.cause not in _PARTS
        end_s = max(self._heard_s, row.begin_s) if is_silence else reading.boottime_s
        end_at = self._now() - timedelta(seconds=reading.boottime_s - end_s)
        is_same = row.boot_id == reading.boot_id
        begin_at = end_at - timedelta(seconds=end_s - row.begin_s) if is_same else row.outage.begin_at
        log.info("%s: %s is over after %s", self.name, row.outage.cause, end_at - begin_at)
        await self._database.transaction(lambda tx: ledger.end(tx, row.number, begin_at, end_at))

    async def _write(
        self, cause: Cause, begin_at: datetime, end_at: datetime | None, boot_id: str, begin_s: float, detail: str
    ) -> None:
        def work(tx: Transaction) -> Outage:
            is_planned = cause is not Cause.PLATFORM and _owner(tx).plans(begin_at)
            told = Cause.PLANNED if is_planned and cause not in _PARTS else cause
            outage = Outage(begin_at, end_at, told, _is_rented(tx), detail)
            ledger.begin(tx, outage, boot_id, begin_s)
            return outage

        outage = await self._database.transaction(work)
        log.warning("%s: %s since %s: %s", self.name, outage.cause, outage.begin_at, detail)

    def _remember(self, reading: Reading) -> None:
        self._looked, self._looked_s = reading, self._clock.monotonic_s()

    def _now(self) -> datetime:
        return self._lease_time().latest_at

    def _read(self) -> Reading:
        clock = self._clock
        return Reading(clock.now(), clock.boottime_s(), clock.boot_id(), clock.is_synchronised())


@cache
def catalogue() -> dict[str, Cause]:
    """Code of a condition -> what its being open is an outage of. Reads a file."""
    book = tomllib.loads(_CATALOGUE.read_text(encoding="utf-8"))
    return {code: Cause(cause) for cause, entry in book.items() for code in entry["codes"]}


def _is_within_boot(over: Pending) -> bool:
    return over.absence.boot_id == over.boot_id


def _see(tx: Transaction) -> Seen:
    found = [one.condition.problem.code for one in conditions.all_open(tx)]
    parts = rules.causes(found, catalogue())
    parts = _unread(machine.get_report(tx)) | parts
    return Seen(enrolment.get(tx) is not None, ledger.get_contact(tx), parts, ledger.open_outages(tx))


def _unread(report: MachineReport | None) -> dict[Cause, str]:
    """What the newest report could not read at all."""
    if report is None:
        return {}
    reasons = {each.field: each.reason for each in report.missing}
    parts: dict[Cause, str] = {}
    if report.engine is None:
        parts[Cause.DOCKER] = reasons.get("engine", "")
    if report.driver is None and "gpus" in reasons:
        parts[Cause.DRIVER] = reasons["gpus"]
    return parts


def _newest(seen: Seen, cause: Cause) -> StoredOutage | None:
    return next((one for one in reversed(seen.open) if one.outage.cause is cause), None)


def _owner(tx: Transaction) -> Owner:
    stored = maintenance.get_cordon(tx)
    return Owner(maintenance.windows(tx), stored.cordon if stored else None)


def _is_rented(tx: Transaction) -> bool:
    """A renter's workload runs, or ran when the engine was last seen."""
    states = {number: status.state for number, status in workloads.all_workloads(tx).items()}
    held = (WorkloadState.RUNNING, WorkloadState.UNKNOWN)
    rentals = (one.contract for one in contracts.all_contracts(tx) if one.contract.kind not in OWN_KINDS)
    return any(states.get(contract.contract_id) in held for contract in rentals)
