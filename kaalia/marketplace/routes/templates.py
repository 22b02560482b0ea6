"""Templates: create, search, update (two spellings of the path), delete."""

from typing import Any

from kaalia.marketplace import templates
from kaalia.marketplace.routes.parameters import json_value, whole_number
from kaalia.marketplace.routing import Call, Route
from kaalia.wire.error import ApiError


async def create(call: Call) -> dict[str, Any]:
    async with call.context.engine.begin() as tx:
        row = await templates.create(tx, call.caller.user_id, call.body, call.context.clock.now())
    return {"success": True, "msg": "template created or existing template found", "template": row}


async def search(call: Call) -> dict[str, Any]:
    filters = json_value(call, "select_filters", dict, {})
    columns = json_value(call, "select_cols", list, ["*"])
    async with call.context.engine.begin() as tx:
        rows = await templates.search(tx, call.caller.user_id, filters)
    if "*" not in columns:
        rows = [{str(column): row.get(str(column)) for column in columns} for row in rows]
    return {"success": True, "templates_found": len(rows), "templates": rows}


async def update(call: Call) -> dict[str, Any]:
    template_id, hash_id = _names(call, "id")
    async with call.context.engine.begin() as tx:
        row = await templates.update(tx, call.caller.user_id, template_id, hash_id, call.body)
    return {"success": True, "msg": "template updated", "template": row}


async def delete(call: Call) -> dict[str, Any]:
    template_id, hash_id = _names(call, "template_id")
    async with call.context.engine.begin() as tx:
        deleted = await templates.delete(tx, call.caller.user_id, template_id, hash_id, call.context.clock.now())
    return {"success": True, "msg": f"template {deleted} deleted"}


def _names(call: Call, id_key: str) -> tuple[int | None, str | None]:
    template_id, hash_id = call.body.get(id_key), call.body.get("hash_id")
    if template_id is None and not isinstance(hash_id, str):
        remedy = f"Send {id_key} (number) or hash_id (text)"
        raise ApiError(400, "invalid_args", f"cannot tell which template: neither {id_key} nor hash_id", remedy=remedy)
    number = None if template_id is None else whole_number(id_key, template_id)
    return number, hash_id if isinstance(hash_id, str) else None


ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/v0/template", "user_write", create),
    Route("GET", "/api/v0/template", "user_read", search),
    Route("PUT", "/api/v0/template", "user_write", update),
    Route("PUT", "/api/v1/template", "user_write", update),
    Route("DELETE", "/api/v0/template", "user_write", delete),
)
