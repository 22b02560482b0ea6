"""An owner's machines: show, list, unlist, price. A machine of somebody else is answered like one that is not there."""

from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import verification
from kaalia.contracts.maintenance import open_windows
from kaalia.contracts.offer import end_of_offer
from kaalia.marketplace import (
    extensions,
    increases,
    listings,
    liveness,
    machines,
    reports,
    terms,
    volume_leases,
    volume_offers,
)
from kaalia.marketplace.context import Context
from kaalia.marketplace.machines import MachineRecord
from kaalia.marketplace.routes.parameters import whole_number
from kaalia.marketplace.routing import Call, Route
from kaalia.wire import machine as wire_machine
from kaalia.wire.error import ApiError


async def show_all(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        owned = await machines.of_user(tx, call.caller.user_id)
        return {"machines": [await _row(call.context, tx, machine) for machine in owned]}


async def show_one(call: Call) -> list[dict[str, Any]]:
    """A bare list of one: the client iterates it."""
    async with call.context.engine.begin() as tx:
        return [await _row(call.context, tx, await owned(call, tx, call.number("id")))]


async def list_machine(call: Call) -> dict[str, Any]:
    machine_id, now = whole_number("machine", call.body.get("machine")), call.context.clock.now()
    async with call.context.engine.begin() as tx:
        machine = await owned(call, tx, machine_id)
        await _check_ready(tx, machine)
        largest = max((len(gpus) for gpus in machine.models.values()), default=0)
        listing = terms.read(call.body, machine.listing, largest, now)
        await machines.put_listing(tx, machine_id, listing)
        extended = await extensions.extend(tx, machine, listing, now)
        asked = await increases.follow(tx, machine_id, listing, now)
        await listings.refresh_asks(tx, machine_id, now)
        machine = replace(machine, listing=listing)
        await volume_offers.follow_machine(tx, machine, call.body, now)
        extended += await volume_leases.extend(tx, machine, now)
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "extended": extended, "pending_price_increases": asked}


async def unlist_machine(call: Call) -> dict[str, Any]:
    machine_id, now = call.number("id"), call.context.clock.now()
    async with call.context.engine.begin() as tx:
        await owned(call, tx, machine_id)
        await machines.put_listing(tx, machine_id, None)
        await increases.follow(tx, machine_id, None, now)
        await volume_offers.unlist_of(tx, machine_id)
        await listings.refresh_asks(tx, machine_id, now)
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "msg": f"machine {machine_id} is not listed; running contracts go on to their end"}


async def set_min_bid(call: Call) -> dict[str, Any]:
    machine_id = call.number("id")
    price = terms.money("price", call.body.get("price"))
    async with call.context.engine.begin() as tx:
        machine = await owned(call, tx, machine_id)
        if machine.listing is None:
            message = f"cannot set the minimum bid of machine {machine_id}: it is not listed"
            raise ApiError(409, "not_listed", message, remedy="List it first with `vastai list machine`")
        listing = replace(machine.listing, price_min_bid_per_hour=price)
        await machines.put_listing(tx, machine_id, listing)
        await increases.follow(tx, machine_id, listing, call.context.clock.now())
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "you_sent": {"price": float(price)}}


async def _check_ready(tx: AsyncConnection, machine: MachineRecord) -> None:
    if machine.report is None:
        cause, remedy = "its daemon has not reported yet", "Start the daemon and see `kaalia status`"
    elif not await listings.can_count(tx, machine):
        cause = "its GPUs cannot all be read at present"
        remedy = "See `kaalia report` on the machine; if GPUs were taken out, unlist it first"
    else:
        return
    raise ApiError(409, "machine_not_ready", f"cannot list machine {machine.id}: {cause}", remedy=remedy)


async def owned(call: Call, tx: AsyncConnection, machine_id: int) -> MachineRecord:
    """A machine of the caller's. Raises ApiError 404 `no_such_machine`."""
    machine = await machines.get(tx, machine_id)
    if machine is None or machine.user_id != call.caller.user_id or machine.deleted_at is not None:
        raise ApiError(
            404,
            "no_such_machine",
            f"cannot find machine {machine_id} among those of this account",
            remedy="`vastai show machines` lists them",
        )
    return machine


async def _row(context: Context, tx: AsyncConnection, machine: MachineRecord) -> dict[str, Any]:
    now = context.clock.now()
    listing = machine.listing
    end_at = None if listing is None else end_of_offer(listing, now)
    return wire_machine.encode(
        wire_machine.Machine(
            machine_id=machine.id,
            host_id=machine.user_id,
            report=machine.report,
            listing=listing,
            rentals=tuple(await listings.rentals(tx, machine.id, now)),
            reliability=liveness.reliability(machine, now, context.settings.offline_after_s, context.away),
            verification=machine.verification,
            silence_s=None if machine.last_seen_at is None else liveness.silence_s(machine, now),
            is_online=liveness.is_online(machine, now, context.settings),
            enrolled_at=machine.enrolled_at,
            end_at=end_at,
            free_disk_bytes=(await listings.free(tx, machine, now)).disk_bytes,
            num_reports=(await reports.counts(tx, [machine.id])).get(machine.id, 0),
            remaining_s=None if end_at is None else max(0.0, (end_at - now).total_seconds()),
            windows=open_windows(machine.windows, now),
            cordon=machine.cordon if machine.is_cordoned(now) else None,
            faults=machine.faults,
            costs=verification.costs(machine.verified, now),
            nears=verification.nears(machine.verified, now),
            asides=machine.verified.asides if machine.verified else (),
        )
    )


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v0/machines", "machine_read", show_all),
    Route("GET", r"/api/v0/machines/{id:\d+}", "machine_read", show_one),
    Route("PUT", "/api/v0/machines/create_asks", "machine_write", list_machine),
    Route("DELETE", r"/api/v0/machines/{id:\d+}/asks", "machine_write", unlist_machine),
    Route("PUT", r"/api/v0/machines/{id:\d+}/minbid", "machine_write", set_min_bid),
)
