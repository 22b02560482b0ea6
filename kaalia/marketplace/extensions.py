"""Re-listing at the same price or a lower one with a later end extends the contracts that run on the machine.

A rolling duration is a re-listing that happens by itself, once a day.
"""

from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import increase, maintenance, offer
from kaalia.contracts.offer import Listing
from kaalia.marketplace import agreements, increases, machines, volume_leases
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import tables
from kaalia.marketplace.machines import MachineRecord
from kaalia.wire import document


async def extend(tx: AsyncConnection, machine: MachineRecord, listing: Listing, now: datetime) -> int:
    """Move the end of each contract that the new terms do not make dearer; returns how many. Prices stay as agreed."""
    offered = offer.end_of_offer(listing, now)
    extended = 0
    for one in await agreements.of_machine(tx, machine.id):
        end_at = maintenance.extended(offered, one.agreed.contract.end_at, machine.windows, now)
        if offer.is_later(end_at, one.agreed.contract.end_at) and not increase.is_dearer(one.latest, listing):
            await agreements.put_end(tx, one, end_at)
            extended += 1
    return extended


async def roll(context: Context) -> None:
    """Move the ends of the listings with a duration whose day has come, and of the contracts that go along."""
    listed = tables.machines.c.listing
    # A search in the text, so that the other listings, which are most, need not be decoded.
    rolling = sa.select(tables.machines.c.id, listed).where(
        listed.is_not(None), listed.contains('"rolling_duration_s":'), ~listed.contains('"rolling_duration_s":null')
    )
    async with context.engine.begin() as tx:
        candidates = (await tx.execute(rolling.order_by(tables.machines.c.id))).all()
    now = context.clock.now()
    due = [row.id for row in candidates if offer.rolled(document.decode(Listing, row.listing), now) is not None]
    for machine_id in due:
        if await _roll_one(context, machine_id):
            context.machine_bells.ring(machine_id)


async def _roll_one(context: Context, machine_id: int) -> bool:
    now = context.clock.now()
    async with context.engine.begin() as tx:
        await machines.lock(tx, machine_id)
        machine = await machines.get(tx, machine_id)
        listing = offer.rolled(machine.listing, now) if machine is not None and machine.listing is not None else None
        if machine is None or listing is None:
            return False
        await machines.put_listing(tx, machine_id, listing)
        await extend(tx, machine, listing, now)
        await volume_leases.extend(tx, replace(machine, listing=listing), now)
        await increases.follow(tx, machine_id, listing, now)
    return True
