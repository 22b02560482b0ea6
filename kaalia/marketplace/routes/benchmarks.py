"""What machines measured, for whoever chooses one."""

from typing import Any

from kaalia.marketplace import benchmarks
from kaalia.marketplace.routes.parameters import json_value
from kaalia.marketplace.routing import Call, Route


async def search(call: Call) -> dict[str, Any]:
    filters = json_value(call, "select_filters", dict, {})
    order = json_value(call, "order_by", list, [])
    columns = json_value(call, "select_cols", list, ["*"])
    limit = json_value(call, "limit", int, benchmarks.PAGE_MAX)
    found = await benchmarks.search(call.context, filters, order, limit, call.request.query.get("after_token"))
    if "*" not in columns:
        found["benchmarks"] = [{str(name): row.get(str(name)) for name in columns} for row in found["benchmarks"]]
    return found


ROUTES: tuple[Route, ...] = (Route("GET", "/api/v0/benchmarks", "misc", search),)
