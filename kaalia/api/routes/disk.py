"""Who has which bytes of the disk, and what the owner wants done about it. The wish is written; a service does it."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import NotFoundError, answer
from kaalia.store import disk
from kaalia.store.changes import Topic
from kaalia.wire.local import DiskOrder


async def show(request: web.Request) -> web.Response:
    """GET /v1/disk: the newest DiskLedger."""
    ledger = await context.of(request).read(disk.get_ledger)
    if ledger is None:
        message = "cannot show the disk: it was not measured yet"
        raise NotFoundError("no_disk_ledger", message, remedy="wait a little; see `kaalia status`")
    return answer(ledger)


async def order(request: web.Request) -> web.Response:
    """POST /v1/disk/{measure,remove_orphans}: 200 once the wish is durable."""
    kind, here = DiskOrder(request.match_info["kind"]), context.of(request)
    now = here.clock.now()
    await here.write(lambda tx: disk.order(tx, kind, now), Topic.DISK)
    return answer({"ordered": kind})
