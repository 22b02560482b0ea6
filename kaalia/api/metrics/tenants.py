"""What tenants may see, as a file in each one's own folder, where the owner wants that.

Containers that the access kit leads into see that folder, read-only. So a tenant reads a file of his own: there is
nothing that he could ask, and nobody else's to find.
"""

import asyncio
import logging
from collections.abc import Callable

from kaalia.api.metrics.scrape import Scraper
from kaalia.errors import KaaliaError
from kaalia.service import run_forever

NAME = "metrics.prom"

log = logging.getLogger(__name__)


class TenantMetricsService:
    """Writes each running contract's file every `interval_s`.

    `write` gets a contract's number, the file's name and its content; raises HostError.
    """

    name = "tenant metrics"

    def __init__(self, scraper: Scraper, write: Callable[[int, str, bytes], None], interval_s: float) -> None:
        self._scraper = scraper
        self._write = write
        self._interval_s = interval_s

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        await self.tell()
        await asyncio.sleep(self._interval_s)

    async def tell(self) -> None:
        """Each file as of now. One that cannot be written keeps no other from it. Raises StoreError."""
        for contract_id, text in (await self._scraper.of_tenants()).items():
            try:
                await asyncio.to_thread(self._write, contract_id, NAME, text)
            except KaaliaError as error:
                log.warning("%s: %s", self.name, error)
