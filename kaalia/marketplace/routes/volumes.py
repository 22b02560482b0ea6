"""Volumes: owners list space, renters search, create, show, clone and delete."""

from decimal import Decimal
from typing import Any

from kaalia.marketplace import terms, volume_leases, volume_offers, volumes
from kaalia.marketplace.routes.machines import owned
from kaalia.marketplace.routes.parameters import id_list, whole_number
from kaalia.marketplace.routing import Call, Caller, Route
from kaalia.marketplace.volumes import Wanted
from kaalia.wire.error import ApiError

DEFAULT_SIZE_GB = 15
"""What the client sends when no size is given."""
_LOCAL = frozenset({"local_volume", "all_volume", ""})


def _account(call: Call) -> Caller:
    """The caller, unless it is an instance: its own id must not open the volume that happens to have the same one."""
    if call.caller.instance_id is None:
        return call.caller
    message = f"cannot reach volumes with the key of instance {call.caller.instance_id}"
    raise ApiError(403, "not_authorized", message, remedy="Use an API key of the account")


async def list_volumes(call: Call) -> dict[str, Any]:
    """`machine` is an id, or a list of them: all are listed or none."""
    wanted, now = call.body.get("machine"), call.context.clock.now()
    ids = id_list(call.body, "machine") if isinstance(wanted, list) else [whole_number("machine", wanted)]
    async with call.context.engine.begin() as tx:
        chosen = [await owned(call, tx, machine_id) for machine_id in ids]
        offers = [await volume_offers.list_alone(tx, machine, call.body, now) for machine in chosen]
        extended = {machine.id: await volume_leases.extend(tx, machine, now) for machine in chosen}
    for machine_id, count in extended.items():
        if count:
            call.context.machine_bells.ring(machine_id)
    return {
        "success": True,
        "offer_ids": offers,
        "volume_offer_id": offers[0],
        "extended": sum(extended.values()),
        "msg": f"{len(offers)} listed",
    }


async def unlist_volume(call: Call) -> dict[str, Any]:
    offer_id = whole_number("id", call.body.get("id"))
    async with call.context.engine.begin() as tx:
        await volume_offers.unlist(tx, call.caller.user_id, offer_id)
    return {"success": True, "msg": f"volume offer {offer_id} is not listed; rented volumes go on"}


async def search(call: Call) -> dict[str, Any]:
    return {"success": True, "offers": await volume_offers.search(call.context, call.body)}


async def create(call: Call) -> dict[str, Any]:
    body = call.body
    wanted = Wanted(whole_number("id", body.get("id")), _size(body.get("size", DEFAULT_SIZE_GB)), _name(body))
    return await _made(call, await volumes.rent(call.context, _account(call), wanted))


async def show(call: Call) -> dict[str, Any]:
    """Local volumes; there are no network volumes here."""
    is_local = call.request.query.get("type", "") in _LOCAL
    return {"success": True, "volumes": await volumes.shown(call.context, _account(call)) if is_local else []}


async def delete(call: Call) -> dict[str, Any]:
    volume_id = whole_number("id", call.request.query.get("id", call.body.get("id")))
    await volumes.delete(call.context, _account(call), volume_id)
    return {"success": True, "msg": f"volume {volume_id} deleted"}


async def clone(call: Call) -> dict[str, Any]:
    body = call.body
    source, offer = whole_number("src_id", body.get("src_id")), whole_number("dst_id", body.get("dst_id"))
    size = None if body.get("size") is None else _size(body["size"])
    volume_id = await volumes.clone(call.context, _account(call), source, offer, size)
    return {**await _made(call, volume_id), "msg": "the copy is being made"}


async def _made(call: Call, volume_id: int) -> dict[str, Any]:
    if call.is_heard:
        await volumes.answered(call.context, volume_id)
    return {"success": True, "volume_id": volume_id, "volume_name": f"V.{volume_id}"}


def _size(value: Any) -> Decimal:
    return terms.money("size", value, volume_offers.SIZE_GB_MAX)


def _name(body: dict[str, Any]) -> str | None:
    name = body.get("name")
    if name is not None and not isinstance(name, str):
        raise ApiError(400, "invalid_args", f"cannot read name={str(name)[:80]!r}: it must be text", remedy="Send text")
    return name


ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/v0/volumes", "machine_write", list_volumes),
    Route("POST", "/api/v0/volumes/unlist", "machine_write", unlist_volume),
    Route("POST", "/api/v0/volumes/search", "misc", search),
    Route("PUT", "/api/v0/volumes", "instance_write", create),
    Route("GET", "/api/v0/volumes", "instance_read", show),
    Route("DELETE", "/api/v0/volumes", "instance_write", delete),
    Route("POST", "/api/v0/volumes/copy", "instance_write", clone),
)
