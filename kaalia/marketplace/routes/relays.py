"""The route for relays: each request bears the relay's own token."""

from aiohttp import web

from kaalia.errors import KaaliaError
from kaalia.marketplace import relays
from kaalia.marketplace.routing import MACHINE, Call, Route
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.relay import RelayPoll


async def permits(call: Call) -> web.Response:
    """A long-poll: 204 when there is no news."""
    kind, _, token = call.request.headers.get("Authorization", "").partition(" ")
    try:
        poll = document.decode(RelayPoll, await call.request.read())
    except KaaliaError as error:
        raise ApiError(400, error.code, error.problem.message) from error
    name = call.request.match_info["name"]
    found = await relays.permits(call.context, name, token if kind == "Bearer" else "", poll)
    if found is None:
        return web.Response(status=204)
    return web.Response(body=document.encode(found).encode(), content_type="application/json")


ROUTES: tuple[Route, ...] = (Route("POST", "/kaalia/v1/relays/{name}/permits", MACHINE, permits),)
