"""An owner's windows of maintenance: schedule, cancel, show."""

from typing import Any

from kaalia.contracts.maintenance import open_windows
from kaalia.marketplace import machines, maintenances
from kaalia.marketplace.routes.machines import owned
from kaalia.marketplace.routes.parameters import json_value, whole_number
from kaalia.marketplace.routing import Call, Route
from kaalia.wire import maintenance as wire


async def schedule(call: Call) -> dict[str, Any]:
    """The client shows nothing of the answer: whatever is wrong must be a 4xx."""
    machine_id, now = call.number("id"), call.context.clock.now()
    window = maintenances.read(call.body, now)
    async with call.context.engine.begin() as tx:
        await owned(call, tx, machine_id)
        await machines.bump(tx, machine_id)  # locks the row: two windows at once cannot overlap
        renters = await maintenances.schedule(tx, await owned(call, tx, machine_id), window, now)
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "you_sent": f"{renters} notifications sent"}


async def cancel(call: Call) -> dict[str, Any]:
    machine_id, now = call.number("id"), call.context.clock.now()
    async with call.context.engine.begin() as tx:
        await owned(call, tx, machine_id)
        await machines.bump(tx, machine_id)
        cancelled = await maintenances.cancel(tx, await owned(call, tx, machine_id), now)
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "msg": f"{cancelled} maintenance windows of machine {machine_id} cancelled"}


async def show(call: Call) -> list[dict[str, Any]]:
    """A bare list of the windows that are not over; without ids, of all machines of the account."""
    now = call.context.clock.now()
    ids = [whole_number("machine_ids", value) for value in json_value(call, "machine_ids", list, [])]
    async with call.context.engine.begin() as tx:
        mine = await machines.of_user(tx, call.caller.user_id)
        found = [await owned(call, tx, machine_id) for machine_id in ids] if ids else mine
    return [row for one in found for row in wire.rows(one.id, open_windows(one.windows, now))]


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v0/machines/maintenances", "machine_read", show),
    Route("PUT", r"/api/v0/machines/{id:\d+}/dnotify", "machine_write", schedule),
    Route("PUT", r"/api/v0/machines/{id:\d+}/cancel_maint", "machine_write", cancel),
)
