"""Copies from and to clouds: `vastai cloud copy`, `cancel sync`, `show connections`. The API makes connections."""

from typing import Any

from kaalia.marketplace import clouds
from kaalia.marketplace.routing import Call, Route


async def copy(call: Call) -> dict[str, Any]:
    return {"success": True, "msg": await clouds.begin(call.context, call.caller, clouds.wanted(call.body))}


async def cancel(call: Call) -> dict[str, Any]:
    holder = clouds.named_holder("dst_id", str(call.body.get("dst_id")).partition(":")[0])
    return {"success": True, "msg": await clouds.cancel(call.context, call.caller, holder)}


async def connections(call: Call) -> list[dict[str, Any]]:
    async with call.context.engine.begin() as tx:
        return await clouds.connections(tx, call.caller.user_id)


async def connect(call: Call) -> dict[str, Any]:
    body = call.body
    made = await clouds.add(call.context, call.caller, body.get("name"), body.get("cloud_type"), body.get("options"))
    return {"success": True, **made}


async def disconnect(call: Call) -> dict[str, Any]:
    await clouds.remove(call.context, call.caller, call.number("id"))
    return {"success": True, "msg": f"connection {call.number('id')} deleted"}


ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/v0/commands/rclone", "instance_write", copy),
    Route("DELETE", "/api/v0/commands/rclone", "instance_write", cancel),
    Route("GET", "/api/v0/users/cloud_integrations", "user_read", connections),
    Route("POST", "/api/v0/users/cloud_integrations", "user_write", connect),
    Route("DELETE", r"/api/v0/users/cloud_integrations/{id:\d+}", "user_write", disconnect),
)
