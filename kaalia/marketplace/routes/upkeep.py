"""What owners do about machines that are listed already: clean up, defragment, delete; and what renters report."""

from typing import Any

from kaalia.marketplace import defrag, machines, removal, reports
from kaalia.marketplace.routes.machines import owned
from kaalia.marketplace.routes.parameters import id_list
from kaalia.marketplace.routing import Call, Route


async def cleanup(call: Call) -> dict[str, Any]:
    """Storage of renters whose contracts expired long ago is given back; nobody else deletes it for the owner."""
    machine_id, now = call.number("id"), call.context.clock.now()
    async with call.context.engine.begin() as tx:
        machine = await owned(call, tx, machine_id)
        ended = await removal.clean_up(tx, machine_id, now)
    call.context.machine_bells.ring(machine_id)
    message = f"{ended.instances} instances and {ended.volumes} volumes deleted that expired 48 hours ago or earlier"
    if ended.waiting:
        message += f"; {ended.waiting} deleted contracts wait for the machine to prove that their data are gone"
    return {
        "success": True,
        "ctime": now.timestamp(),
        "machine_id": machine_id,
        "user_id": machine.user_id,
        "num_deleted": ended.total,
        "msg": message,
    }


async def delete(call: Call) -> dict[str, Any]:
    machine_id, now = call.number("id"), call.context.clock.now()
    async with call.context.engine.begin() as tx:
        await owned(call, tx, machine_id)
        ended = await removal.delete(tx, machine_id, now)
    call.context.machine_bells.ring(machine_id)
    message = f"machine {machine_id} is deleted; {ended.instances} instances and {ended.volumes} volumes on it end"
    return {"success": True, "msg": message, "num_deleted": ended.total}


async def defragment(call: Call) -> dict[str, Any]:
    """All of the machines, or none when one of them is not the caller's."""
    now = call.context.clock.now()
    async with call.context.engine.begin() as tx:
        mine = [await owned(call, tx, machine_id) for machine_id in id_list(call.body, "machine_ids")]
        rows = [defrag.encode(machine.id, *await defrag.defragment(tx, machine, now)) for machine in mine]
    return {"success": True, "machines": rows}


async def show_reports(call: Call) -> list[dict[str, Any]]:
    """A GET with a body; the path tells all that is needed."""
    async with call.context.engine.begin() as tx:
        machine = await owned(call, tx, call.number("id"))
        return await reports.newest(tx, machine.id)


async def report(call: Call) -> dict[str, Any]:
    """The public API shows reports but has no call to make one: this is ours."""
    async with call.context.engine.begin() as tx:
        machine_id = call.number("id")
        machine = await machines.get(tx, machine_id)
        report_id = await reports.add(tx, call.caller.user_id, machine, call.body, call.context.clock.now())
        await machines.bump(tx, machine_id)  # the daemon tells its owner
    call.context.machine_bells.ring(machine_id)
    return {"success": True, "id": report_id}


ROUTES: tuple[Route, ...] = (
    Route("PUT", r"/api/v0/machines/{id:\d+}/cleanup", "machine_write", cleanup),
    Route("POST", r"/api/v0/machines/{id:\d+}/force_delete", "machine_write", delete),
    Route("PUT", "/api/v0/machines/defrag_offers", "machine_write", defragment),
    Route("GET", r"/api/v0/machines/{id:\d+}/reports", "machine_read", show_reports),
    Route("POST", r"/api/v0/machines/{id:\d+}/reports", "instance_write", report),
)
