"""Scheduled jobs: `--schedule` of the client, `vastai show scheduled-jobs`, `vastai delete scheduled-job`."""

from typing import Any

from kaalia.marketplace import auth, scheduled, scheduled_requests
from kaalia.marketplace.auth import Key
from kaalia.marketplace.routing import Call, Route
from kaalia.wire import schedule as wire
from kaalia.wire.schedule import Wanted


async def show(call: Call) -> list[dict[str, Any]]:
    return await scheduled.rows(call.context, call.caller)


async def create(call: Call) -> dict[str, Any]:
    job_id = await scheduled.create(call.context, call.caller, await _permitted(call, wire.read(call.body)))
    return {"success": True, "id": job_id, "msg": f"scheduled job {job_id} is made"}


async def update(call: Call) -> dict[str, Any]:
    job_id = call.number("id")
    known = await scheduled.known(call.context, await _key(call), job_id)
    wanted = wire.read(wire.merged(known, call.body))
    await scheduled.replace(call.context, call.caller, job_id, await _permitted(call, wanted))
    return {"success": True, "id": job_id, "msg": f"scheduled job {job_id} is changed"}


async def delete(call: Call) -> dict[str, Any]:
    job_id = call.number("id")
    await scheduled.delete(call.context, await _key(call), job_id)
    return {"success": True, "msg": f"scheduled job {job_id} is deleted"}


async def _permitted(call: Call, wanted: Wanted) -> Wanted:
    """A key schedules, changes and deletes only what it may ask for itself."""
    scheduled_requests.check(wanted)
    scheduled.authorise(await _key(call), wanted)
    return wanted


async def _key(call: Call) -> Key:
    return await auth.identify(call.context, call.request)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v0/commands/schedule_job", "instance_read", show),
    Route("POST", "/api/v0/commands/schedule_job", "instance_write", create),
    Route("PUT", r"/api/v0/commands/schedule_job/{id:\d+}", "instance_write", update),
    Route("DELETE", r"/api/v0/commands/schedule_job/{id:\d+}", "instance_write", delete),
)
