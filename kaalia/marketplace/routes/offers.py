"""Offer search, in both of its spellings."""

from typing import Any

from kaalia.marketplace import search
from kaalia.marketplace.routing import Call, Route
from kaalia.wire.error import ApiError


async def bundles(call: Call) -> dict[str, Any]:
    return {"success": True, "offers": await search.search(call.context, call.body)}


async def search_asks(call: Call) -> dict[str, Any]:
    """`{"select_cols": ["*"], "q": {...}}`: the same question, one level deeper."""
    question, columns = call.body.get("q", {}), call.body.get("select_cols", ["*"])
    if not isinstance(question, dict) or not isinstance(columns, list):
        message = "cannot search: q must be an object and select_cols a list"
        raise ApiError(400, "invalid_args", message, remedy='Send {"select_cols": ["*"], "q": {...}}')
    rows = await search.search(call.context, question)
    if "*" not in columns:
        rows = [{str(column): row.get(str(column)) for column in columns} for row in rows]
    return {"success": True, "offers": rows}


ROUTES: tuple[Route, ...] = (
    Route("POST", "/api/v0/bundles", "misc", bundles),
    Route("PUT", "/api/v0/search/asks", "misc", search_asks),
)
