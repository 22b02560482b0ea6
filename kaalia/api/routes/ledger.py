"""Who has which part of the machine."""

from aiohttp import web

from kaalia.api import context, ledger
from kaalia.api.responses import answer


async def show(request: web.Request) -> web.Response:
    """GET /v1/ledger: a LedgerDocument."""
    here = context.of(request)
    now = here.clock.now()
    return answer(await here.read(lambda tx: ledger.read(tx, now)))
