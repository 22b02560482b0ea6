"""Copies: `vastai copy`, `vastai cancel copy`."""

from typing import Any

from kaalia.contracts import copying
from kaalia.marketplace import clouds, copies
from kaalia.marketplace.copies import Wanted
from kaalia.marketplace.routing import Call, Route
from kaalia.model.copying import CopyEnd
from kaalia.wire.error import ApiError


async def copy(call: Call) -> dict[str, Any]:
    """Both routes: which of them the client takes says nothing that the places do not say."""
    by_cloud = clouds.wanted_by_name(call.body)
    if by_cloud is not None:
        return {"success": True, "msg": await clouds.begin(call.context, call.caller, by_cloud)}
    match copies.wanted(call.body):
        case Wanted(source=None, target=CopyEnd() as target):
            door = await copies.open_door(call.context, call.caller, target, is_target=True)
            return {"success": True, "dst_addr": door.address, "dst_port": door.port, "msg": door.msg}
        case Wanted(source=CopyEnd() as source, target=None):
            door = await copies.open_door(call.context, call.caller, source, is_target=False)
            return {"success": True, "src_addr": door.address, "src_port": door.port, "msg": door.msg}
        case Wanted(source=CopyEnd() as source, target=CopyEnd() as target):
            return {"success": True, "msg": await copies.begin(call.context, call.caller, source, target)}
    raise AssertionError("two places of the caller's own are refused before")


async def cancel(call: Call) -> dict[str, Any]:
    holder = copying.holder("dst_id", str(call.body.get("dst_id")).partition(":")[0])
    if holder is None:
        message = "cannot cancel copies to your own machine: they are yours"
        raise ApiError(400, "invalid_args", message, remedy="Stop rsync there")
    return {"success": True, "msg": await copies.cancel(call.context, call.caller, holder)}


ROUTES: tuple[Route, ...] = (
    Route("PUT", "/api/v0/commands/rsync", "instance_write", copy),
    Route("PUT", "/api/v0/commands/copy_direct", "instance_write", copy),
    Route("DELETE", "/api/v0/commands/copy_direct", "instance_write", cancel),
)
