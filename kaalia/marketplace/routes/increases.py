"""What renters answer to dearer listings."""

from collections.abc import Awaitable, Callable
from typing import Any

from kaalia.marketplace import increases
from kaalia.marketplace.context import Context
from kaalia.marketplace.routes.parameters import whole_number
from kaalia.marketplace.routing import Call, Caller, Route
from kaalia.wire.error import ApiError

_KEY = "pending_price_increase_id"


async def show(call: Call) -> dict[str, Any]:
    rows, is_truncated = await increases.pending(call.context, call.caller)
    return {"success": True, "count": len(rows), "truncated": is_truncated, "pending_price_increases": rows}


async def accept(call: Call) -> dict[str, Any]:
    return await _answer(call, increases.accept)


async def reject(call: Call) -> dict[str, Any]:
    return await _answer(call, increases.reject)


async def _answer(call: Call, decide: Callable[[Context, Caller, int], Awaitable[int]]) -> dict[str, Any]:
    """The body is the one number and nothing else: a client that thinks it answers for many must learn better."""
    if unknown := sorted(call.body.keys() - {_KEY}):
        message = f"cannot answer a price increase with {unknown[0][:40]}: the body is {_KEY} alone"
        raise ApiError(400, "invalid_args", message, remedy="Answer one at a time")
    increase_id = whole_number(_KEY, call.body.get(_KEY))
    contract_id = await decide(call.context, call.caller, increase_id)
    return {"success": True, _KEY: increase_id, "contract_id": contract_id}


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v0/instances/pending-price-increases", "instance_read", show),
    Route("PUT", "/api/v0/instances/accept-price-increase", "instance_write", accept),
    Route("PUT", "/api/v0/instances/reject-price-increase", "instance_write", reject),
)
