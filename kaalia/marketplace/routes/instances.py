"""Renting, and what renters see and do of their instances."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.contract import Desired
from kaalia.errors import KaaliaError
from kaalia.marketplace import instances, logs, renewals, rentals, snapshots
from kaalia.marketplace.create_request import checked_label
from kaalia.marketplace.pages import PAGE_MAX, page
from kaalia.marketplace.rentals import Rental
from kaalia.marketplace.routes.parameters import id_list, json_value
from kaalia.marketplace.routing import PUBLIC, Call, Route
from kaalia.wire import error as wire_error
from kaalia.wire.error import ApiError

_STATES = {"running": Desired.RUNNING, "stopped": Desired.STOPPED}
_FILTERABLE = ("actual_status", "gpu_name", "verification")


async def rent(call: Call) -> dict[str, Any]:
    return _rented(await rentals.rent(call.context, call.caller, call.number("id"), call.body))


async def rent_many(call: Call) -> dict[str, Any]:
    """Each offer for itself; the client repeats the request unless one of them could be rented."""
    body = {key: value for key, value in call.body.items() if key != "ids"}
    results: list[dict[str, Any]] = []
    for ask_id in id_list(call.body, "ids"):
        try:
            results.append({"ask_id": ask_id, **_rented(await rentals.rent(call.context, call.caller, ask_id, body))})
        except KaaliaError as error:
            results.append({"ask_id": ask_id, **wire_error.body(error)})
            refusal = error
    made = [result["new_contract"] for result in results if result["success"]]
    if not made:
        raise refusal
    return {"success": True, "new_contracts": made, "results": results}


async def launch(call: Call) -> dict[str, Any]:
    """Search and rent in one. A refusal is a 200: of any other status the client shows nothing but the number."""
    try:
        rental = await rentals.launch(call.context, call.caller, call.body)
        if call.is_heard:
            await rentals.answered(call.context, rental)
        return _rented(rental)
    except KaaliaError as error:
        refusal = wire_error.body(error)
        return {**refusal, "message": refusal["msg"]}


async def list_v1(call: Call) -> dict[str, Any]:
    rows = await instances.rows(call.context, call.caller)
    reply = page(
        rows,
        json_value(call, "select_filters", dict, {}),
        [_order_term(term) for term in json_value(call, "order_by", list, [])],
        json_value(call, "limit", int, PAGE_MAX),
        call.request.query.get("after_token"),
    )
    columns = json_value(call, "select_cols", list, ["*"])
    if "*" not in columns:
        reply["instances"] = [{str(column): row.get(str(column)) for column in columns} for row in reply["instances"]]
    return reply


async def list_v0(call: Call) -> dict[str, Any]:
    return {"success": True, "instances": await instances.rows(call.context, call.caller)}


async def filters(call: Call) -> dict[str, Any]:
    """The combinations of values that the caller's instances have."""
    rows = await instances.rows(call.context, call.caller)
    combinations = dict.fromkeys(tuple(row[name] for name in _FILTERABLE) for row in rows)
    return {"success": True, "filters": [dict(zip(_FILTERABLE, values, strict=True)) for values in combinations]}


async def show(call: Call) -> dict[str, Any]:
    found = await instances.rows(call.context, call.caller, call.number("id"))
    return {"instances": found[0] if found else None}


async def change(call: Call) -> dict[str, Any]:
    """State, label, or both."""
    instance_id = call.number("id")
    if "state" not in call.body and "label" not in call.body:
        raise _invalid("cannot change the instance: neither state nor label is given", "Send one of them")
    label = call.body.get("label")
    if not isinstance(label, str | None):
        raise _invalid(f"cannot use label={str(label)[:80]!r}: it must be text", "Send text")
    label = checked_label(label)
    if "state" in call.body:
        await instances.set_state(call.context, call.caller, [instance_id], _state(call.body))
    if "label" in call.body:
        await instances.set_label(call.context, call.caller, instance_id, label)
    return {"success": True, "msg": f"instance {instance_id} changed"}


async def change_many(call: Call) -> dict[str, Any]:
    ids = id_list(call.body, "ids")
    await instances.set_state(call.context, call.caller, ids, _state(call.body))
    return {"success": True, "msg": f"{len(ids)} instances changed"}


async def reboot(call: Call) -> dict[str, Any]:
    instance_id = call.number("id")
    await instances.reboot(call.context, call.caller, instance_id)
    return {"success": True, "msg": f"instance {instance_id} is rebooting"}


async def recycle(call: Call) -> dict[str, Any]:
    instance_id = call.number("id")
    await renewals.recycle(call.context, call.caller, instance_id)
    return {"success": True, "msg": f"instance {instance_id} is recycling"}


async def update(call: Call) -> dict[str, Any]:
    instance_id = call.number("id")
    row = await renewals.update(call.context, call.caller, instance_id, call.body)
    return {"success": True, "updated_instance": row, "msg": f"instance {instance_id} is made anew"}


async def take_snapshot(call: Call) -> dict[str, Any]:
    instance_id = call.number("id")
    target = await snapshots.take(call.context, call.caller, instance_id, call.body)
    return {"success": True, "msg": f"a snapshot of instance {instance_id} is pushed to {target}"}


async def destroy(call: Call) -> dict[str, Any]:
    instance_id = call.number("id")
    await instances.destroy(call.context, call.caller, [instance_id])
    return {"success": True, "msg": f"instance {instance_id} destroyed"}


async def destroy_many(call: Call) -> dict[str, Any]:
    ids = id_list(call.body, "instance_ids")
    await instances.destroy(call.context, call.caller, ids)
    return {"success": True, "msg": f"{len(ids)} instances destroyed"}


async def request_logs(call: Call) -> dict[str, Any]:
    async def ask(tx: AsyncConnection, machine_id: int, instance_id: int) -> str:
        return await logs.request(tx, machine_id, instance_id, call.body, call.context.clock.now())

    return await _asked(call, "read logs", ask)


async def execute(call: Call) -> dict[str, Any]:
    """`writeable_path` is what older clients take out of the text: there is nothing of the machine's in it."""

    async def ask(tx: AsyncConnection, machine_id: int, instance_id: int) -> str:
        return await logs.execute(tx, machine_id, instance_id, call.body.get("command"), call.context.clock.now())

    return {**await _asked(call, "execute a command", ask), "writeable_path": ""}


async def _asked(call: Call, doing: str, ask: Callable[[AsyncConnection, int, int], Awaitable[str]]) -> dict[str, Any]:
    """`ask` gets the transaction, the machine's id and the instance's, and gives the task's."""
    context = call.context
    async with context.engine.begin() as tx:
        row = await instances.find(tx, call.caller, call.number("id"))
        if row is None:
            message = f"cannot {doing} of instance {call.number('id')}: no such instance of yours"
            raise ApiError(404, "invalid_id", message, remedy="`vastai show instances` lists yours")
        task_id = await ask(tx, row.machine_id, row.id)
    context.machine_bells.ring(row.machine_id)
    return {"success": True, "result_url": f"{context.settings.public_url}/api/v0/blobs/{task_id}", "msg": ""}


async def blob(call: Call) -> web.Response:
    text = await logs.read(call.context, call.request.match_info["task_id"])
    return web.Response(text=text, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})


def _rented(rental: Rental) -> dict[str, Any]:
    return {"success": True, "new_contract": rental.contract_id, "instance_api_key": rental.api_key}


def _state(body: Mapping[str, Any]) -> Desired:
    state = body.get("state")
    if not isinstance(state, str) or state not in _STATES:
        raise _invalid(f"cannot set state={str(state)[:80]!r}: it must be running or stopped", "Send one of the two")
    return _STATES[state]


def _order_term(term: Any) -> list[Any]:
    """`{"col": "id", "dir": "asc"}` as the client sends it, or `["id", "asc"]`."""
    if isinstance(term, dict):
        return [term.get("col"), str(term.get("dir", "asc")).lower()]
    if not isinstance(term, list):
        raise _invalid(f"cannot order by {str(term)[:80]!r}", 'Send [{"col": "id", "dir": "asc"}]')
    return term


def _invalid(message: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", message, remedy=remedy)


ROUTES: tuple[Route, ...] = (
    Route("PUT", r"/api/v0/asks/{id:\d+}", "instance_write", rent),
    Route("POST", r"/api/v0/asks/{id:\d+}", "instance_write", rent),
    Route("POST", "/api/v0/asks/bulk", "instance_write", rent_many),
    Route("PUT", "/api/v0/launch_instance", "instance_write", launch),
    Route("GET", "/api/v1/instances", "instance_read", list_v1),
    Route("GET", "/api/v0/instances", "instance_read", list_v0),
    Route("GET", "/api/v0/instances/filters", "instance_read", filters),
    Route("GET", r"/api/v0/instances/{id:\d+}", "instance_read", show),
    Route("PUT", r"/api/v0/instances/{id:\d+}", "instance_write", change),
    Route("PUT", "/api/v0/instances", "instance_write", change_many),
    Route("PUT", r"/api/v0/instances/reboot/{id:\d+}", "instance_write", reboot),
    Route("PUT", r"/api/v0/instances/recycle/{id:\d+}", "instance_write", recycle),
    Route("PUT", r"/api/v0/instances/update_template/{id:\d+}", "instance_write", update),
    Route("POST", r"/api/v0/instances/take_snapshot/{id:\d+}", "instance_write", take_snapshot),
    Route("DELETE", r"/api/v0/instances/{id:\d+}", "instance_write", destroy),
    Route("DELETE", "/api/v0/instances", "instance_write", destroy_many),
    Route("PUT", r"/api/v0/instances/request_logs/{id:\d+}", "instance_read", request_logs),
    Route("PUT", r"/api/v0/instances/command/{id:\d+}", "instance_write", execute),
    Route("GET", "/api/v0/blobs/{task_id}", PUBLIC, blob),
)
