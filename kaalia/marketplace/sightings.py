"""Keeps what this marketplace's own prober saw of machines' ports: its word goes before theirs."""

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import sightings as rules
from kaalia.marketplace import machines
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.verification_tables import sightings as table
from kaalia.model.sightings import Sightings
from kaalia.wire.probe import ProbeReply, ProbeRequest

_SIGHTINGS = TypeAdapter(Sightings)


async def note(context: Context, machine_id: int, asked: ProbeRequest, reply: ProbeReply) -> None:
    """What a probe showed that the machine asked for."""
    if not reply.results:
        return
    held = {(target.port, target.protocol) for target in asked.targets if target.connect_only}
    sights = [
        rules.sight(one.port, one.protocol, one.outcome, one.answered_port, is_held=(one.port, one.protocol) in held)
        for one in reply.results
    ]
    now = context.clock.now()
    async with context.engine.begin() as tx:
        await machines.lock(tx, machine_id)
        known = await get(tx, machine_id)
        record = _SIGHTINGS.dump_json(rules.noted(known, reply.address, sights, now)).decode()
        changed = await tx.execute(sa.update(table).where(table.c.machine_id == machine_id).values(record=record))
        if changed.rowcount == 0:
            await tx.execute(sa.insert(table).values(machine_id=machine_id, record=record))


async def get(tx: AsyncConnection, machine_id: int) -> Sightings | None:
    """None: it never asked this prober."""
    return read(await tx.scalar(sa.select(table.c.record).where(table.c.machine_id == machine_id)))


def of(machine_id: int) -> sa.ScalarSelect[str]:
    """For a query of more: the text that `read` reads."""
    return sa.select(table.c.record).where(table.c.machine_id == machine_id).scalar_subquery()


def read(text: str | None) -> Sightings | None:
    return None if text is None else _SIGHTINGS.validate_json(text)
