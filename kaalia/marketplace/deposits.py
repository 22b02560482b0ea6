"""The deposits of reserved instances: what is locked, what is left of it, and what an early end costs.

The use itself is charged by the hour like any other, from the same credit; so nothing is paid twice, and an early end
only costs the discount that was enjoyed.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import reserved
from kaalia.contracts.reserved import Reservation
from kaalia.marketplace import billing
from kaalia.marketplace.db.tables import contracts, deposits, users
from kaalia.model.metering import Meter
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class Deposit:
    """A reservation and how long its instance has run since."""

    reservation: Reservation
    used_hours: Decimal


async def get(tx: AsyncConnection, contract_id: int, now: datetime) -> Deposit | None:
    row = (await tx.execute(sa.select(deposits).where(deposits.c.contract_id == contract_id))).one_or_none()
    if row is None:
        return None
    since = from_epoch(row.prepaid_at)
    used_s = sum(
        max(0.0, ((one.ended_at or now) - max(one.started_at, since)).total_seconds())
        for one in await billing.intervals(tx, contract_id)
        if one.meter is Meter.RUN
    )
    return Deposit(document.decode(Reservation, row.document), Decimal(str(used_s)) / 3600)


async def put(tx: AsyncConnection, contract_id: int, made: Reservation, now: datetime) -> None:
    """In place of an earlier one."""
    await tx.execute(sa.delete(deposits).where(deposits.c.contract_id == contract_id))
    values = {"contract_id": contract_id, "document": document.encode(made), "prepaid_at": now.timestamp()}
    await tx.execute(sa.insert(deposits).values(values))


async def locked(tx: AsyncConnection, user_id: int, now: datetime) -> Decimal:
    """What a user's live reservations still hold of the credit."""
    query = sa.select(deposits.c.contract_id).join(contracts, contracts.c.id == deposits.c.contract_id)
    live = await tx.scalars(query.where(contracts.c.user_id == user_id, contracts.c.ended_at.is_(None)))
    held = [await get(tx, contract_id, now) for contract_id in live.all()]
    return sum((reserved.remaining(one.reservation, one.used_hours) for one in held if one), Decimal(0))


async def close(tx: AsyncConnection, contract_id: int, user_id: int, now: datetime) -> None:
    """The contract ends: the discount goes back to the owner as far as the deposit has anything left."""
    held = await get(tx, contract_id, now)
    if held is None:
        return
    left = reserved.remaining(held.reservation, held.used_hours)
    penalty = left - reserved.refund(held.reservation, held.used_hours)
    await tx.execute(sa.delete(deposits).where(deposits.c.contract_id == contract_id))
    if penalty > 0:
        credit = Decimal((await tx.execute(sa.select(users.c.credit).where(users.c.id == user_id))).scalar_one())
        await tx.execute(sa.update(users).where(users.c.id == user_id).values(credit=str(credit - penalty)))
        words = f"Early end of reserved instance {contract_id}: {left - penalty:.2f} of {left:.2f} given back"
        await billing.note_invoice(tx, user_id, -penalty, "reserved", "instance_prepay", words, now)
