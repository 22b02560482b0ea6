"""Is a machine online, and how reliable was it, by `contracts.reliability` from what this marketplace heard itself.

A silence is known only when it ends, or by looking at `now`; nothing here runs on a timer.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import reliability as rules
from kaalia.marketplace import machines
from kaalia.marketplace.context import Settings
from kaalia.marketplace.db.tables import charges
from kaalia.marketplace.db.tables import machines as table
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.availability import OFFLINE_AFTER_S, Outage, Record, Span
from kaalia.model.metering import Meter

OUTAGES_TAKEN = 64
"""Of one post; a daemon tells fewer."""


async def seen(
    tx: AsyncConnection,
    machine_id: int,
    now: datetime,
    offline_after_s: float = OFFLINE_AFTER_S,
    away: Iterable[Span] = (),
    told: Iterable[Outage] = (),
) -> Record | None:
    """The machine was heard of: a gap of more than `offline_after_s` was a silence. `told`: its own words on outages.

    Its record after that, None: there is no such machine.
    """
    machine = await machines.get(tx, machine_id)
    if machine is None:
        return None
    record = machine.availability or rules.begun(now)
    record = replace(record, offline_after_s=offline_after_s)
    if machine.last_seen_at is not None and machine.last_seen_at < now:
        over = rules.silence(record, machine.last_seen_at, now, machine.windows, away)
        record = record if over is None else rules.with_silence(record, over, now)
    record = rules.explained(record, list(told)[:OUTAGES_TAKEN])
    record = replace(record, is_rented=await _is_rented(tx, machine))
    if record != machine.availability or machine.last_seen_at is None:
        await machines.put_availability(tx, machine_id, record)
    if machine.last_seen_at is None or machine.last_seen_at < now:
        await tx.execute(sa.update(table).where(table.c.id == machine_id).values(last_seen_at=now.timestamp()))
    return record


async def _is_rented(tx: AsyncConnection, machine: MachineRecord) -> bool:
    """A workload of somebody else's runs there, by the books that he pays by."""
    running = (charges.c.machine_id == machine.id, charges.c.meter == Meter.RUN, charges.c.ended_at.is_(None))
    found = sa.select(charges.c.id).where(*running, charges.c.user_id != machine.user_id).limit(1)
    return await tx.scalar(found) is not None


def is_online(machine: MachineRecord, now: datetime, settings: Settings) -> bool:
    return machine.last_seen_at is not None and silence_s(machine, now) <= settings.offline_after_s


def silence_s(machine: MachineRecord, now: datetime) -> float:
    """Seconds since the machine was last heard of; 0 when never, and when the clock went back."""
    return 0.0 if machine.last_seen_at is None else max(0.0, (now - machine.last_seen_at).total_seconds())


def reliability(
    machine: MachineRecord, now: datetime, offline_after_s: float = OFFLINE_AFTER_S, away: Iterable[Span] = ()
) -> float:
    """0 to 1. A silence that is going on counts already."""
    record = machine.availability or rules.begun(now)
    if machine.last_seen_at is None:
        return rules.figure(record, now)
    record = replace(record, offline_after_s=offline_after_s)
    return rules.figure(record, now, rules.silence(record, machine.last_seen_at, now, machine.windows, away))
