"""How long to leave the marketplace alone after failures: grows from 1 to 60 s, with jitter, or as long as it asks."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from kaalia.errors import MarketplaceError, UnauthorizedError

log = logging.getLogger(__name__)

FIRST_S = 1.0
LONGEST_S = 60.0


class Backoff:
    """Consecutive failures of one loop. The jitter spreads machines that lost the same marketplace."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._failures = 0
        self._last_code: str | None = None

    async def guard(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` once. When the marketplace fails: one line in the log for each outage, then wait."""
        try:
            await work()
        except MarketplaceError as error:
            if error.code != self._last_code:
                log.warning("%s: %s", name, error)
            self._last_code = error.code
            await asyncio.sleep(self.next_s(error))
        else:
            if self._last_code is not None:
                log.info("%s: the marketplace answers again", name)
            self._failures, self._last_code = 0, None

    def next_s(self, error: MarketplaceError) -> float:
        """Seconds to wait after this failure. A refused key will not heal in a second: the longest wait."""
        self._failures += 1
        if error.retry_after_s is not None:
            return error.retry_after_s + self._chance.uniform(0, FIRST_S)
        if isinstance(error, UnauthorizedError):
            return self._chance.uniform(LONGEST_S / 2, LONGEST_S)
        longest_s = min(LONGEST_S, FIRST_S * 2 ** min(self._failures - 1, 10))
        return self._chance.uniform(longest_s / 2, longest_s)
