"""How the daemon is doing."""

from aiohttp import web

from kaalia.api import context, status
from kaalia.api.responses import answer


async def show(request: web.Request) -> web.Response:
    """GET /v1/status: a DaemonStatus."""
    return answer(await status.read(context.of(request)))
