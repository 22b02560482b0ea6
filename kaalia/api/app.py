"""The local API: the whole of it on one screen, and the service that listens on its unix socket."""

import asyncio
from pathlib import Path

from aiohttp import web

from kaalia.api import access, responses
from kaalia.api.context import CONTEXT, Context
from kaalia.api.metrics.scrape import Scraper
from kaalia.api.routes import (
    canary,
    contracts,
    disk,
    drain,
    health,
    ledger,
    machine,
    metrics,
    notifications,
    ports,
    reliability,
    reporting,
    selftest,
    speed,
    status,
    verification,
)

SHUTDOWN_S = 0.5
"""How long an answer under way may take when the daemon stops."""

ROUTES = (
    web.get("/metrics", metrics.show),
    web.get("/v1/status", status.show),
    web.get("/v1/health", health.show),
    web.get("/v1/report", machine.show_report),
    web.get("/v1/notifications", notifications.show),
    web.post("/v1/report/send", reporting.send),
    web.get("/v1/report/details", machine.show_details),
    web.post("/v1/report/measure", machine.measure),
    web.get("/v1/contracts", contracts.show_all),
    web.get(r"/v1/contracts/{contract_id:\d{1,18}}", contracts.show),
    web.get("/v1/ledger", ledger.show),
    web.get("/v1/canary", canary.show),
    web.get("/v1/verification", verification.show),
    web.post("/v1/canary/run", canary.run),
    web.get("/v1/self-test", selftest.show),
    web.post("/v1/self-test", selftest.order),
    web.delete("/v1/self-test", selftest.cancel),
    web.get("/v1/drain", drain.show),
    web.put("/v1/drain", drain.place),
    web.delete("/v1/drain", drain.lift),
    web.get("/v1/reliability", reliability.show),
    web.get("/v1/disk", disk.show),
    web.get("/v1/ports", ports.show),
    web.post("/v1/ports/probe", ports.probe),
    web.get("/v1/speed", speed.show),
    web.post("/v1/speed/test", speed.test),
    web.post("/v1/disk/{kind:measure|remove_orphans}", disk.order),
)


def build(context: Context, scraper: Scraper | None = None) -> web.Application:
    """`scraper`: the one that serves elsewhere too."""
    app = web.Application(middlewares=[responses.map_errors])
    app[CONTEXT] = context
    app[metrics.SCRAPER] = scraper or Scraper(context)
    app.add_routes(ROUTES)
    return app


class LocalApiService:
    """Answers until cancelled; removes its socket when it goes."""

    name = "local api"

    def __init__(self, path: Path, context: Context, scraper: Scraper | None = None) -> None:
        self._path = path
        self._context = context
        self._scraper = scraper

    async def run(self) -> None:
        door = await asyncio.to_thread(access.listen, self._path)
        runner = web.AppRunner(build(self._context, self._scraper), access_log=None, shutdown_timeout=SHUTDOWN_S)
        try:
            await runner.setup()
            await web.SockSite(runner, door).start()
            self._context.listening.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            door.close()
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
