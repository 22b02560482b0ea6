"""The metrics on a TCP port, where the owner wants that: nothing else of the local API is served there."""

import asyncio
import logging

from aiohttp import web

from kaalia.api import responses
from kaalia.api.metrics.scrape import Scraper
from kaalia.api.routes import metrics
from kaalia.clock import Clock
from kaalia.errors import HostError, KaaliaError
from kaalia.model.health import Condition, Severity
from kaalia.service import run_forever
from kaalia.store import conditions
from kaalia.store.database import Database

SOURCE = "metrics"
SHUTDOWN_S = 0.5

log = logging.getLogger(__name__)


class MetricsPortService:
    """Answers until cancelled. While it cannot listen a condition says so, and it tries again.

    `database` None: in safe mode, when there is no condition to write.
    """

    name = "metrics"

    def __init__(self, address: str, port: int, scraper: Scraper, clock: Clock, database: Database | None) -> None:
        self._address = address
        self._port = port
        self._scraper = scraper
        self._clock = clock
        self._database = database

    async def run(self) -> None:
        await run_forever(self.name, self._serve)

    async def _serve(self) -> None:
        app = web.Application(middlewares=[responses.map_errors])
        app[metrics.SCRAPER] = self._scraper
        app.add_routes([web.get("/metrics", metrics.show)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        try:
            await runner.setup()
            await self._listen(runner)
            await self._tell()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        try:
            await web.TCPSite(runner, self._address, self._port).start()
        except OSError as error:
            failure = HostError(
                "metrics_port_unusable",
                f"cannot serve metrics on {self._address} port {self._port}: {error.strerror or error}",
                remedy="end what listens there, or set metrics.listen to another port; then: systemctl restart kaalia",
            )
            await self._tell(failure)
            raise failure from error
        log.info("metrics: served on %s port %d", self._address, self._port)

    async def _tell(self, failure: KaaliaError | None = None) -> None:
        if self._database is None:
            return
        found = [] if failure is None else [Condition(failure.problem, Severity.WARN, "the port can be listened on")]
        now = self._clock.now()
        await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
