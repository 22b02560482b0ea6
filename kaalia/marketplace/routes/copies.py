"""Copies: `vastai copy`, `vastai cancel copy`."""

from collections.abc import Mapping
from typing import Any, NoReturn

from kaalia.contracts import copying
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
        case Wanted(source=CopyEnd() as source, target=CopyEnd() as target):
            return {"success": True, "msg": await copies.begin(call.context, call.caller, source, target)}
    raise AssertionError("two places of the caller's own are refused before")


async def cancel(call: Call) -> dict[str, Any]:
    holder = copying.holder("dst_id", str(call.body.get("dst_id")).partition(":")[0])
    if holder is None:
        message = "cannot cancel copies to your own machine: they are yours"
        raise ApiError(400, "invalid_args", message, remedy="Stop rsync there")
    return {"success": True, "msg": await copies.cancel(call.context, call.caller, holder)}


async def cloud(call: Call) -> dict[str, Any]:
    """`cloud copy` and `cancel sync`."""
    check_cloud(call.body)


def check_cloud(body: Mapping[str, Any]) -> NoReturn:
    """There are no connections to clouds, so there is nothing to do."""
    message = "cannot copy from or to a cloud: this marketplace keeps no connections to clouds"
    raise ApiError(400, "copy_cloud_unsupported", message, remedy="Run rclone inside the instance")


async def connections(call: Call) -> list[dict[str, Any]]:
    """Of the account, to clouds: none."""
    return []


ROUTES: tuple[Route, ...] = (
    Route("PUT", "/api/v0/commands/rsync", "instance_write", copy),
    Route("PUT", "/api/v0/commands/copy_direct", "instance_write", copy),
    Route("DELETE", "/api/v0/commands/copy_direct", "instance_write", cancel),
    Route("POST", "/api/v0/commands/rclone", "instance_write", cloud),
    Route("DELETE", "/api/v0/commands/rclone", "instance_write", cloud),
    Route("GET", "/api/v0/users/cloud_integrations", "user_read", connections),
)
