"""The deposits of reserved instances: what is locked, what is left of it, and what an early end costs.

The use itself is charged by the hour like any other, from the same credit; so nothing is paid twice, and an early end
only costs the discount that was enjoyed: the renter pays the difference to the price on demand, and the owner earns it.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import reserved
from kaalia.contracts.metering import NANO_USD
from kaalia.contracts.reserved import Reservation
from kaalia.marketplace import billing
from kaalia.marketplace.db.tables import contracts, deposits, forfeits, machines, prepayments, users
from kaalia.model.metering import Meter
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class Deposit:
    """A reservation and how long its instance has run since."""

    reservation: Reservation
    used_hours: Decimal


@dataclass(frozen=True, slots=True)
class Forfeit:
    """US dollars that an owner earned by an early end."""

    machine_id: int
    at: datetime
    amount_usd: Decimal


async def get(tx: AsyncConnection, contract_id: int, now: datetime) -> Deposit | None:
    row = (await tx.execute(sa.select(deposits).where(deposits.c.contract_id == contract_id))).one_or_none()
    if row is None:
        return None
    since = from_epoch(row.prepaid_at)
    proven_at = min(now, await _heard_at(tx, contract_id) or now)
    used_s = sum(
        max(0.0, (min(one.ended_at or proven_at, now) - max(one.started_at, since)).total_seconds())
        for one in await billing.intervals(tx, contract_id)
        if one.meter is Meter.RUN
    )
    return Deposit(document.decode(Reservation, row.document), Decimal(str(used_s)) / 3600)


async def _heard_at(tx: AsyncConnection, contract_id: int) -> datetime | None:
    """The machine's last word: while it is silent the deposit stands still, as its charges do."""
    joined = sa.select(machines.c.last_seen_at).join(contracts, contracts.c.machine_id == machines.c.id)
    heard_at = await tx.scalar(joined.where(contracts.c.id == contract_id))
    return None if heard_at is None else from_epoch(heard_at)


async def put(tx: AsyncConnection, contract_id: int, made: Reservation, now: datetime) -> None:
    """In place of an earlier one."""
    await tx.execute(sa.delete(deposits).where(deposits.c.contract_id == contract_id))
    values = {"contract_id": contract_id, "document": document.encode(made), "prepaid_at": now.timestamp()}
    await tx.execute(sa.insert(deposits).values(values))


async def note_payment(tx: AsyncConnection, contract_id: int, amount: Decimal, now: datetime) -> None:
    """`amount` as it was asked for. `deposits.prepaid_at` says something else: a change of prices moves it."""
    await tx.execute(sa.delete(prepayments).where(prepayments.c.contract_id == contract_id))
    values = {"contract_id": contract_id, "amount": str(amount), "requested_at": now.timestamp()}
    await tx.execute(sa.insert(prepayments).values(values))


async def is_repeated(tx: AsyncConnection, contract_id: int, amount: Decimal, since: datetime) -> bool:
    """The newest payment was of this amount, and made after `since`."""
    query = sa.select(prepayments.c.amount).where(
        prepayments.c.contract_id == contract_id, prepayments.c.requested_at > since.timestamp()
    )
    newest = await tx.scalar(query)
    return newest is not None and Decimal(newest) == amount


async def locked(tx: AsyncConnection, user_id: int, now: datetime) -> Decimal:
    """What a user's live reservations still hold of the credit."""
    query = sa.select(deposits.c.contract_id).join(contracts, contracts.c.id == deposits.c.contract_id)
    live = await tx.scalars(query.where(contracts.c.user_id == user_id, contracts.c.ended_at.is_(None)))
    held = [await get(tx, contract_id, now) for contract_id in live.all()]
    return sum((reserved.remaining(one.reservation, one.used_hours) for one in held if one), Decimal(0))


async def close(tx: AsyncConnection, row: sa.Row[Any], now: datetime) -> None:
    """The renter ends a contract, a row of `contracts`, before its time: the discount goes to the owner.

    No more of it than the deposit has left.
    """
    held = await get(tx, row.id, now)
    if held is None:
        return
    left = reserved.remaining(held.reservation, held.used_hours)
    kept = (left - reserved.refund(held.reservation, held.used_hours)).quantize(NANO_USD, ROUND_HALF_EVEN)
    await tx.execute(sa.delete(deposits).where(deposits.c.contract_id == row.id))
    if kept > 0:
        renter = sa.select(users.c.credit).where(users.c.id == row.user_id).with_for_update()
        credit = Decimal((await tx.execute(renter)).scalar_one())
        await tx.execute(sa.update(users).where(users.c.id == row.user_id).values(credit=str(credit - kept)))
        words = f"Early end of reserved instance {row.id}: {left - kept:.2f} of {left:.2f} given back"
        await billing.note_invoice(tx, row.user_id, -kept, "reserved", "instance_prepay", words, now)
        await _earn(tx, row, kept, now)


async def _earn(tx: AsyncConnection, row: sa.Row[Any], kept: Decimal, now: datetime) -> None:
    owner = sa.select(machines.c.user_id).where(machines.c.id == row.machine_id)
    values = {
        "contract_id": row.id,
        "machine_id": row.machine_id,
        "user_id": row.user_id,
        "host_id": (await tx.execute(owner)).scalar_one(),
        "amount": str(kept),
        "forfeited_at": now.timestamp(),
    }
    await tx.execute(sa.insert(forfeits).values(values))


async def earned(tx: AsyncConnection, host_id: int) -> list[Forfeit]:
    """What an owner ever earned by early ends, oldest first."""
    query = sa.select(forfeits).where(forfeits.c.host_id == host_id)
    rows = await tx.execute(query.order_by(forfeits.c.forfeited_at, forfeits.c.contract_id))
    return [Forfeit(row.machine_id, from_epoch(row.forfeited_at), Decimal(row.amount)) for row in rows]
