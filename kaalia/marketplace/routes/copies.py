"""Copies: `vastai copy`."""

from typing import Any

from kaalia.marketplace import copies
from kaalia.marketplace.copies import Wanted
from kaalia.marketplace.routing import Call, Route
from kaalia.model.copying import CopyEnd
from kaalia.wire.error import ApiError


async def copy(call: Call) -> dict[str, Any]:
    """Both routes: which of them the client takes says nothing that the places do not say."""
    match copies.wanted(call.body):
        case Wanted(source=None, target=CopyEnd() as target):
            door = await copies.open_door(call.context, call.caller, target, is_target=True)
            return {"success": True, "dst_addr": door.address, "dst_port": door.port, "msg": door.msg}
        case Wanted(source=CopyEnd() as source, target=None):
            door = await copies.open_door(call.context, call.caller, source, is_target=False)
            return {"success": True, "src_addr": door.address, "src_port": door.port, "msg": door.msg}
        case _:
            message = "cannot copy from one instance or volume to another: this marketplace does not do that yet"
            raise ApiError(400, "copy_unsupported", message, remedy="Copy by way of your own machine")


ROUTES: tuple[Route, ...] = (
    Route("PUT", "/api/v0/commands/rsync", "instance_write", copy),
    Route("PUT", "/api/v0/commands/copy_direct", "instance_write", copy),
)
