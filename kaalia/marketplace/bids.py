"""Bids of interruptible instances: changed by the renter, never below the owner's floor.

The marketplace only writes the bid down and tells the machine; the machine decides by `contracts.arbitration` who
runs, stops the loser, and starts the winner once the GPUs are proven free.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.offer import Listing, bid_floor
from kaalia.marketplace import billing, increases, instances, listings, machines, terms
from kaalia.marketplace.context import Context
from kaalia.marketplace.create_request import PRICE_MAX, PRICE_MIN
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.routing import Caller
from kaalia.wire import document
from kaalia.wire.error import ApiError


async def change(context: Context, caller: Caller, instance_id: int, price: Any) -> Decimal:
    """Bid `price` $/h for the whole instance; None: just enough to run now. Returns the new bid.

    Raises ApiError 404 `no_such_instance`, 400 `not_interruptible` or `invalid_price`.
    """
    async with context.engine.begin() as tx:
        await increases.apply_due(tx, (await instances.owned(tx, caller, instance_id)).id, context.clock.now())
        row = await instances.owned(tx, caller, instance_id)
        contract = document.decode(Contract, row.document)
        if contract.kind is not ContractKind.INTERRUPTIBLE:
            message = f"cannot change the bid of instance {instance_id}: it is {contract.kind}, not interruptible"
            raise ApiError(400, "not_interruptible", message, remedy="Rent with --bid_price to bid")
        agreed = document.decode(Listing, row.price_terms)
        now = context.clock.now()
        wanted = None if price is None else terms.money("price", price)
        bid = await _winning(tx, row.machine_id, contract, agreed, now) if wanted is None else wanted
        _check(bid, contract, agreed)
        changed = replace(contract, price_usd_per_hour=bid)
        await billing.set_rate(tx, row.id, billing.rate(now, bid, agreed))
        await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(document=document.encode(changed)))
        await machines.bump(tx, row.machine_id)
        await listings.refresh_asks(tx, row.machine_id, now)
    context.machine_bells.ring(row.machine_id)
    return bid


def _check(bid: Decimal, contract: Contract, agreed: Listing) -> None:
    """The floor is the one agreed at rental: an owner cannot raise it under a running contract."""
    least = max(PRICE_MIN, bid_floor(agreed) * max(contract.spec.gpu_count, 1))
    if not least <= bid <= PRICE_MAX:
        message = f"cannot bid price={bid}: it is outside {least} to {PRICE_MAX} $/h for {contract.spec.gpu_count} GPUs"
        raise ApiError(400, "invalid_price", message, remedy=f"Bid {least} or more")


async def _winning(tx: AsyncConnection, machine_id: int, contract: Contract, agreed: Listing, now: datetime) -> Decimal:
    """The least bid that runs now; the present one where it wins, or where no bid would win."""
    machine = await machines.get(tx, machine_id)
    if machine is None:
        return contract.price_usd_per_hour
    left = await listings.free(tx, machine, now)
    group = left.of_contract(contract)
    if group is None:
        return contract.price_usd_per_hour
    per_gpu = group.without(contract.contract_id).bid_to_win(contract.spec.gpu_count, bid_floor(agreed))
    if per_gpu is None:
        return contract.price_usd_per_hour
    return per_gpu * max(contract.spec.gpu_count, 1)
