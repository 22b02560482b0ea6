"""The end of volumes: moved by the owner's new terms, as that of contracts is.

An expired volume is mounted by no new instance and charged as before. Its data go by the renter's delete, or by the
owner's clean-up 48 hours later (`removal`), never while an instance mounts it.
"""

from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace import machines, volume_offers
from kaalia.marketplace.db import tables
from kaalia.marketplace.machines import MachineRecord


async def extend(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> int:
    """Move the end of each volume for which the offer's new terms are later and not dearer; how many.

    `machine` holds its new listing. The price stays as agreed. Ring the machine's bell after the commit.
    """
    offer = await volume_offers.of_machine(tx, machine, now)
    if offer is None:
        return 0
    end_at = None if offer.end_at is None else offer.end_at.timestamp()
    kept = tables.volumes.c
    later = kept.end_at < end_at if end_at is not None else sa.true()
    query = sa.select(kept.id, kept.price_per_gb_month).where(
        kept.machine_id == machine.id, kept.ended_at.is_(None), kept.end_at.is_not(None), later
    )
    found = [row.id for row in await tx.execute(query) if offer.price_per_gb_month <= Decimal(row.price_per_gb_month)]
    if found:
        await tx.execute(sa.update(tables.volumes).where(kept.id.in_(found)).values(end_at=end_at))
        await machines.bump(tx, machine.id)
    return len(found)
