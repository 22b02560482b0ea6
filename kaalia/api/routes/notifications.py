"""How the owner is told what happens to his machine."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import NotFoundError, answer


async def show(request: web.Request) -> web.Response:
    """GET /v1/notifications: a NotifyDocument."""
    here = context.of(request)
    read, now = here.notifications, here.clock.now()
    if read is None:
        raise NotFoundError(
            "notify_off",
            "cannot show notifications: the daemon's configuration names no channel",
            remedy="write the section notify (docs/notifications.md), then: systemctl restart kaalia",
        )
    return answer(await here.read(lambda tx: read(tx, now)))
