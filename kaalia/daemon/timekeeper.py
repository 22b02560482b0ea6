"""Keeps the time that leases go by: `contracts.lease` fed with this machine's clocks, its anchor kept in the store.

A `Clock` for whoever deals in agreed times. Looks often enough to notice a suspended machine: timers of the event
loop stand still meanwhile, so it rings Topic.TIME after one, and whenever the time moved otherwise than by passing.
"""

import asyncio
import logging
from datetime import datetime, timedelta

from kaalia.clock import MachineClock
from kaalia.contracts import lease
from kaalia.contracts.lease import Anchor, LeaseTime, Reading
from kaalia.errors import Problem
from kaalia.pulse import PULSE
from kaalia.service import run_forever
from kaalia.store import anchor as rows
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database

log = logging.getLogger(__name__)

LOOK_S = 10.0
RECORD_S = 60.0
"""A reboot is known to have come later than the last record."""
MOVED = timedelta(seconds=5)
"""Less is the ordinary slewing of a disciplined clock."""


class Timekeeper:
    """Open it before anybody asks for the time."""

    name = "time"

    def __init__(self, database: Database, changes: Changes, clock: MachineClock) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._anchor: Anchor | None = None
        self.before: Anchor | None = None
        """The last record of the daemon before this one; None: there was none."""
        self._told: LeaseTime | None = None
        self._told_s = 0.0
        self._recorded_s = 0.0
        self._problem: str | None = None
        self._heard_at: datetime | None = None

    async def open(self) -> None:
        """Go on from the last record. Raises StoreError."""
        self._anchor = self.before = await self._database.read(rows.get)
        await self._notice(self._read())

    def now(self) -> datetime:
        """The best guess. In a doubt it may be later than what leases may be ended by: see `lease_time`."""
        return self.lease_time().latest_at

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def lease_time(self) -> LeaseTime:
        reading = self._read()
        return lease.time_of(self._advance(reading), reading)

    def problem(self) -> Problem | None:
        """For `kaalia status`."""
        reading = self._read()
        return lease.problem(self._advance(reading), reading)

    def heard_at(self) -> datetime | None:
        """When the marketplace last told its time; None: not since the start."""
        return self._heard_at

    async def hear(self, server_at: datetime) -> None:
        """The marketplace told its time."""
        reading = self._read()
        self._heard_at = reading.wall_at
        self._anchor = lease.heard(self._anchor, reading, server_at)
        await self._notice(reading)

    async def look(self) -> None:
        """Has the time moved?"""
        await self._notice(self._read())

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        await self.look()
        began_s = self._clock.monotonic_s()
        await asyncio.sleep(LOOK_S)
        PULSE.woke(self._clock.monotonic_s() - began_s - LOOK_S)

    def _read(self) -> Reading:
        clock = self._clock
        return Reading(clock.now(), clock.boottime_s(), clock.boot_id(), clock.is_synchronised())

    def _advance(self, reading: Reading) -> Anchor:
        self._anchor = lease.advance(self._anchor, reading)
        return self._anchor

    async def _notice(self, reading: Reading) -> None:
        """Record the anchor when it is time to, or when it moved; then ring."""
        anchor = self._advance(reading)
        time, monotonic_s = lease.time_of(anchor, reading), self._clock.monotonic_s()
        has_moved = self._told is None or _has_moved(self._told, time, monotonic_s - self._told_s)
        self._tell(lease.problem(anchor, reading))
        if has_moved or abs(reading.boottime_s - self._recorded_s) >= RECORD_S:
            await self._database.transaction(lambda tx: rows.put(tx, anchor))
            self._recorded_s = reading.boottime_s
        self._told, self._told_s = time, monotonic_s
        if has_moved:
            self._changes.ring(Topic.TIME)

    def _tell(self, problem: Problem | None) -> None:
        code = problem.code if problem else None
        if code == self._problem:
            return
        if problem is None:
            log.info("time: the clocks agree again")
        else:
            log.warning("time: %s: %s (%s)", problem.code, problem.message, problem.evidence)
        self._problem = code


def _has_moved(told: LeaseTime, time: LeaseTime, passed_s: float) -> bool:
    """Otherwise than by what the event loop's timers have counted."""
    expected = told.latest_at + timedelta(seconds=passed_s)
    return told.is_certain != time.is_certain or abs(time.latest_at - expected) > MOVED
