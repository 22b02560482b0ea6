"""SSH keys of one instance: `attach ssh`, `detach ssh`."""

from typing import Any

from kaalia.marketplace import copy_keys, instance_keys
from kaalia.marketplace.routing import Call, Route
from kaalia.wire.error import ApiError


async def show(call: Call) -> list[dict[str, Any]]:
    return await instance_keys.listed(call.context, call.caller, call.number("id"))


async def attach(call: Call) -> dict[str, Any]:
    text = call.body.get("ssh_key")
    if not isinstance(text, str):
        message = "cannot attach an SSH key: ssh_key must be text"
        raise ApiError(400, "invalid_args", message, remedy="Send the line of the .pub file")
    key = await instance_keys.attach(call.context, call.caller, call.number("id"), text)
    return {"success": True, "key": key, "msg": f"key {key['id']} may log in to instance {call.number('id')}"}


async def detach(call: Call) -> dict[str, Any]:
    context, number, now = call.context, call.number("id"), call.context.clock.now()
    async with context.engine.begin() as tx:
        line, machine_id = await instance_keys.detach(tx, call.caller, number, call.number("key_id"), now)
        told = await copy_keys.withdraw(tx, call.caller.user_id, [line], now)
    copy_keys.ring(context, {machine_id, *told})
    message = f"key {call.number('key_id')} may no longer log in to instance {call.number('id')}"
    return {"success": True, "msg": message}


ROUTES: tuple[Route, ...] = (
    Route("GET", r"/api/v0/instances/{id:\d+}/ssh", "instance_read", show),
    Route("POST", r"/api/v0/instances/{id:\d+}/ssh", "instance_write", attach),
    Route("DELETE", r"/api/v0/instances/{id:\d+}/ssh/{key_id:\d+}", "instance_write", detach),
)
