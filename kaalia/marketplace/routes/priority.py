"""Who runs first, and at what price: bids, reservations, and the owner's default job."""

from typing import Any

from kaalia.marketplace import bids, default_jobs, reservations
from kaalia.marketplace.routes.machines import owned
from kaalia.marketplace.routes.parameters import whole_number
from kaalia.marketplace.routing import Call, Route


async def change_bid(call: Call) -> dict[str, Any]:
    instance_id = call.number("id")
    bid = await bids.change(call.context, call.caller, instance_id, call.body.get("price"))
    return {"success": True, "msg": f"the bid of instance {instance_id} is {bid} $/h", "price": float(bid)}


async def prepay(call: Call) -> dict[str, Any]:
    made = await reservations.prepay(call.context, call.caller, call.number("id"), call.body.get("amount"))
    return {"success": True, "timescale": float(made.months), "discount_rate": float(made.discount_rate)}


async def deposit(call: Call) -> dict[str, Any]:
    return await reservations.shown(call.context, call.caller, call.number("id"))


async def set_default_job(call: Call) -> dict[str, Any]:
    machine_id = whole_number("machine", call.body.get("machine"))
    async with call.context.engine.begin() as tx:
        machine = await owned(call, tx, machine_id)
        made = await default_jobs.put(call.context, tx, machine, default_jobs.read(call.body))
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "machine_id": machine_id, "user_id": call.caller.user_id, "contracts": made}


async def remove_default_job(call: Call) -> dict[str, Any]:
    machine_id = call.number("id")
    async with call.context.engine.begin() as tx:
        await owned(call, tx, machine_id)
        ended = await default_jobs.remove(tx, machine_id, call.context.clock.now())
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "msg": f"{ended} default jobs of machine {machine_id} end"}


ROUTES: tuple[Route, ...] = (
    Route("PUT", r"/api/v0/instances/bid_price/{id:\d+}", "instance_write", change_bid),
    Route("PUT", r"/api/v0/instances/prepay/{id:\d+}", "instance_write", prepay),
    Route("GET", r"/api/v0/instances/balance/{id:\d+}", "instance_read", deposit),
    Route("PUT", "/api/v0/machines/create_bids", "machine_write", set_default_job),
    Route("DELETE", r"/api/v0/machines/{id:\d+}/defjob", "machine_write", remove_default_job),
)
