"""Prepaying: an on-demand instance becomes a reserved one, at a discount that grows with the time paid for.

Each payment works the discount out anew, from what is left and what is added, as the public documents warn.
"""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from kaalia.contracts import reserved
from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.offer import Listing
from kaalia.contracts.reserved import Reservation
from kaalia.marketplace import billing, deposits, increases, instances, machines, rentals, terms
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.routing import Caller
from kaalia.wire import document
from kaalia.wire.error import ApiError

AMOUNT_MAX = 1_000_000


async def prepay(context: Context, caller: Caller, instance_id: int, amount: Any) -> Reservation:
    """Lock `amount` US dollars of the caller's credit for this instance.

    The client repeats what was not answered: the same amount within a minute is one payment.
    Raises ApiError 404 `no_such_instance`, 400 `not_reservable`, `invalid_args` or `insufficient_credit`.
    """
    added, now = terms.money("amount", amount, AMOUNT_MAX), context.clock.now()
    async with context.engine.begin() as tx:
        await increases.apply_due(tx, (await instances.owned(tx, caller, instance_id)).id, now)
        row = await instances.owned(tx, caller, instance_id)
        held = await deposits.get(tx, instance_id, now)
        if held and await deposits.is_repeated(tx, instance_id, added, now - rentals.REPEAT_WINDOW):
            return held.reservation
        contract = document.decode(Contract, row.document)
        agreed = document.decode(Listing, row.price_terms)
        machine = await machines.get(tx, row.machine_id)
        _check(contract, agreed, added, is_own=machine is not None and machine.user_id == caller.user_id)
        free = await billing.credit(tx, caller.user_id, now) - await deposits.locked(tx, caller.user_id, now)
        if added > free:
            message = f"cannot prepay amount={added}: {max(free, Decimal(0)):.2f} US dollars of credit are free"
            raise ApiError(400, "insufficient_credit", message, remedy="Add credit, or prepay less")
        most = agreed.credit_discount_max
        made = (
            reserved.topped_up(held.reservation, held.used_hours, added, most)
            if held
            else reserved.reserve(added, contract.price_usd_per_hour, most)
        )
        await deposits.put(tx, instance_id, made, now)
        await deposits.note_payment(tx, instance_id, added, now)
        changed = replace(contract, kind=ContractKind.RESERVED, price_usd_per_hour=made.usd_per_hour)
        await billing.set_rate(tx, row.id, billing.rate(now, made.usd_per_hour, agreed))
        await tx.execute(sa.update(contracts).where(contracts.c.id == row.id).values(document=document.encode(changed)))
        await machines.bump(tx, row.machine_id)
    context.machine_bells.ring(row.machine_id)
    return made


async def shown(context: Context, caller: Caller, instance_id: int) -> dict[str, Any]:
    """What `show deposit` prints; zeros without a reservation. Raises ApiError 404."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        await instances.owned(tx, caller, instance_id)
        held = await deposits.get(tx, instance_id, now)
    numbers = {"refundable_deposit": 0.0, "total_discount": 0.0, "discount_months": 0.0, "balance": 0.0}
    if held is not None:
        one, used = held.reservation, held.used_hours
        numbers["refundable_deposit"] = float(reserved.refund(one, used))
        numbers["total_discount"] = float(reserved.enjoyed(one, used))
        numbers["discount_months"] = float(one.months)
        numbers["balance"] = float(reserved.remaining(one, used))
    return {"success": True, **numbers}


def _check(contract: Contract, agreed: Listing, added: Decimal, is_own: bool) -> None:
    if is_own:
        message = f"cannot prepay instance {contract.contract_id}: its machine is your own, and costs you nothing"
        raise ApiError(400, "not_reservable", message, remedy="Prepay what you rent from others")
    if contract.kind not in (ContractKind.ON_DEMAND, ContractKind.RESERVED):
        message = f"cannot prepay instance {contract.contract_id}: it is {contract.kind}"
        raise ApiError(400, "not_reservable", message, remedy="Rent on demand, then prepay")
    if agreed.credit_discount_max == 0 or contract.price_usd_per_hour == 0:
        message = f"cannot prepay instance {contract.contract_id}: its owner gives no discount"
        raise ApiError(400, "not_reservable", message, remedy="Search with `-r`: discount_rate says who gives one")
    if added <= 0:
        message = f"cannot prepay amount={added}: it must be more than 0"
        raise ApiError(400, "invalid_args", message, remedy="Give US dollars, such as 20")
