"""Price increases: a dearer listing touches no contract that runs; it is put to each renter, who accepts or rejects.

    dearer listing ──▶ pending ──accept──▶ accepted ──(the contract's end of then)──▶ applied
                        │    └───reject──▶ rejected (holds for these prices)
                        └─(withdrawn, lowered, changed)──▶ gone

Accepting moves the contract's end to the listing's at once; the new prices hold from the end that it had before.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import increase, maintenance, offer, reserved
from kaalia.contracts.contract import ContractKind, prolonged, repriceable
from kaalia.contracts.offer import Listing
from kaalia.marketplace import agreements, billing, deposits, listings, machines
from kaalia.marketplace.agreements import Standing, Step
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import contracts, price_increases
from kaalia.marketplace.db.tables import machines as machines_table
from kaalia.marketplace.routing import Caller
from kaalia.wire import document
from kaalia.wire import increase as wire
from kaalia.wire.error import ApiError

ROWS_MAX = 1000
_ASKED = ("pending", "rejected")


async def follow(tx: AsyncConnection, machine_id: int, listing: Listing | None, now: datetime) -> int:
    """Make the questions to renters fit the listing (None: unlisted); how many are open then.

    Call in the transaction that changes a listing. A renter who has rejected these prices is not asked again.
    """
    standings = await agreements.of_machine(tx, machine_id)
    query = sa.select(price_increases).where(
        price_increases.c.contract_id.in_([one.contract_id for one in standings]), price_increases.c.state.in_(_ASKED)
    )
    known = {row.contract_id: row for row in await tx.execute(query)}
    count = 0
    for one in standings:
        row = known.get(one.contract_id)
        # A contract without an end goes on at its price for as long as the renter likes.
        wanted = listing if one.latest.contract.end_at is not None else None
        if wanted is None or not increase.is_dearer(one.latest, wanted):
            await _forget(tx, row)
        elif row is not None and _was_asked(row, wanted, now):
            if row.state == "pending":
                values = {"terms": document.encode(wanted)}
                await tx.execute(sa.update(price_increases).where(price_increases.c.id == row.id).values(values))
                count += 1
        else:
            await _forget(tx, row)
            await _ask(tx, one.contract_id, wanted, now)
            count += 1
    return count


async def pending(context: Context, caller: Caller) -> tuple[list[dict[str, Any]], bool]:
    """What is put to the caller, as the API shows it, and whether there is more than ROWS_MAX."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        found = (await tx.execute(_open(caller).limit(ROWS_MAX + 1))).all()
        shown = []
        for row in found[:ROWS_MAX]:
            one = await _standing(tx, row.contract_id)
            terms = document.decode(Listing, row.terms)
            shown.append(
                wire.encode(
                    wire.PendingIncrease(
                        increase_id=row.id,
                        contract_id=row.contract_id,
                        host_id=row.host_id,
                        old=increase.paid(one.latest),
                        new=increase.asked(one.latest, terms),
                        contract_end_at=one.latest.contract.end_at,
                        offer_end_at=await _new_end(tx, row.machine_id, one, terms, now),
                        created_at=from_epoch(row.created_at),
                    )
                )
            )
    return shown, len(found) > ROWS_MAX


async def accept(context: Context, caller: Caller, increase_id: int) -> int:
    """The contract's id. Raises ApiError 404 `no_pending_price_increase`."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await _take(tx, caller, increase_id)
        one, terms = await _standing(tx, row.contract_id), document.decode(Listing, row.terms)
        starts_at = increase.starts_at(one.latest.contract, now)
        if starts_at is None:
            raise _stale(increase_id)
        values = {"state": "accepted", "decided_at": now.timestamp(), "applies_at": starts_at.timestamp()}
        await tx.execute(sa.update(price_increases).where(price_increases.c.id == row.id).values(values))
        contract = repriceable(one.agreed.contract, terms)
        end_at = await _new_end(tx, row.machine_id, one, terms, now)
        is_later = offer.is_later(end_at, contract.end_at)
        await agreements.put(tx, one, prolonged(contract, end_at) if is_later else contract)
        await apply_due(tx, row.contract_id, now)
        await listings.refresh_asks(tx, row.machine_id, now)
    context.machine_bells.ring(row.machine_id)
    return int(row.contract_id)


async def reject(context: Context, caller: Caller, increase_id: int) -> int:
    """The contract's id. It goes on as agreed, to its end. Raises ApiError 404 `no_pending_price_increase`."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await _take(tx, caller, increase_id)
        values = {"state": "rejected", "decided_at": now.timestamp()}
        await tx.execute(sa.update(price_increases).where(price_increases.c.id == row.id).values(values))
    return int(row.contract_id)


async def apply_all(context: Context) -> None:
    """Write what has come to hold into the contracts. The charges know the moment without it: see `billing`."""
    now = context.clock.now()
    query = (
        sa.select(price_increases.c.contract_id, contracts.c.machine_id)
        .join(contracts, contracts.c.id == price_increases.c.contract_id)
        .where(price_increases.c.state == "accepted", price_increases.c.applies_at <= now.timestamp())
        .where(contracts.c.ended_at.is_(None))
    )
    async with context.engine.begin() as tx:
        due = {row.contract_id: row.machine_id for row in await tx.execute(query)}
    for contract_id, machine_id in sorted(due.items()):
        async with context.engine.begin() as tx:
            await machines.bump(tx, machine_id)
            await apply_due(tx, contract_id, now)
        context.machine_bells.ring(machine_id)


async def apply_due(tx: AsyncConnection, contract_id: int, now: datetime) -> None:
    """Write the prices that hold by now into the contract. Call before its price is changed otherwise."""
    one = await _standing(tx, contract_id)
    for step in one.steps:
        if step.at <= now:
            await _apply(tx, one, step)


async def _apply(tx: AsyncConnection, one: Standing, step: Step) -> None:
    contract, terms = step.agreed.contract, step.agreed.terms
    await billing.set_rate(tx, one.contract_id, billing.rate(step.at, contract.price_usd_per_hour, terms))
    if contract.kind is ContractKind.RESERVED and (held := await deposits.get(tx, one.contract_id, step.at)):
        made = reserved.repriced(held.reservation, held.used_hours, contract.price_usd_per_hour)
        await deposits.put(tx, one.contract_id, made, step.at)
    values = {"document": document.encode(contract), "price_terms": document.encode(terms)}
    await tx.execute(sa.update(contracts).where(contracts.c.id == one.contract_id).values(values))
    done = sa.update(price_increases).where(price_increases.c.id == step.increase_id)
    await tx.execute(done.values(state="applied"))


async def _new_end(
    tx: AsyncConnection, machine_id: int, one: Standing, terms: Listing, now: datetime
) -> datetime | None:
    """Of the terms, before maintenance that the contract does not reach yet."""
    machine = await machines.get(tx, machine_id)
    windows = machine.windows if machine else ()
    return maintenance.extended(offer.end_of_offer(terms, now), one.agreed.contract.end_at, windows, now)


async def _standing(tx: AsyncConnection, contract_id: int) -> Standing:
    query = sa.select(contracts).where(contracts.c.id == contract_id).with_for_update()
    return await agreements.standing(tx, (await tx.execute(query)).one())


def _was_asked(row: sa.Row[Any], listing: Listing, now: datetime) -> bool:
    """About these prices, and for no longer a time than this: an answer to it is an answer to the listing."""
    before = document.decode(Listing, row.terms)
    if not increase.same_prices(before, listing):
        return False
    is_shorter = offer.is_later(offer.end_of_offer(before, now), offer.end_of_offer(listing, now))
    return row.state == "rejected" or not is_shorter


async def _ask(tx: AsyncConnection, contract_id: int, listing: Listing, now: datetime) -> None:
    values = {"contract_id": contract_id, "terms": document.encode(listing), "state": "pending"}
    await tx.execute(sa.insert(price_increases).values(**values, created_at=now.timestamp()))


async def _forget(tx: AsyncConnection, row: sa.Row[Any] | None) -> None:
    if row is not None:
        await tx.execute(sa.delete(price_increases).where(price_increases.c.id == row.id))


def _open(caller: Caller, increase_ids: Collection[int] | None = None) -> sa.Select[Any]:
    query = (
        sa.select(price_increases, contracts.c.machine_id, machines_table.c.user_id.label("host_id"))
        .join(contracts, contracts.c.id == price_increases.c.contract_id)
        .join(machines_table, machines_table.c.id == contracts.c.machine_id)
        .where(price_increases.c.state == "pending", contracts.c.user_id == caller.user_id)
        .where(contracts.c.ended_at.is_(None))
        .order_by(price_increases.c.id)
    )
    return query if increase_ids is None else query.where(price_increases.c.id.in_(increase_ids))


async def _take(tx: AsyncConnection, caller: Caller, increase_id: int) -> sa.Row[Any]:
    """An open question to this caller. Raising the machine's revision first locks out a listing that changes it."""
    query = _open(caller, [increase_id])
    row: sa.Row[Any] | None = (await tx.execute(query)).one_or_none()
    if row is not None:
        await machines.bump(tx, row.machine_id)
        row = (await tx.execute(query)).one_or_none()
    if row is None:
        raise _stale(increase_id)
    return row


def _stale(increase_id: int) -> ApiError:
    message = (
        f"cannot find price increase {increase_id}: nothing of that number waits for an answer of yours; "
        "it was answered, withdrawn or changed, or its instance has ended"
    )
    remedy = "`vastai show pending-price-increases` shows what does"
    return ApiError(404, "no_pending_price_increase", message, remedy=remedy)
