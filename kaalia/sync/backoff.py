"""How long to leave the marketplace alone after failures: grows from 1 s, with jitter, or as long as it asks.

To 20 s from one attempt to the next while it cannot be reached: what waits is renters' news, and an attempt costs one
handshake, so that of 10,000 machines that lost it about 700 a second come back. To 60 s when it answers and refuses:
that does not heal in a moment.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from kaalia.errors import MarketplaceError, UnauthorizedError, UnreachableError

log = logging.getLogger(__name__)

FIRST_S = 1.0
UNREACHABLE_S = 20.0
ATTEMPT_S = 10.0
"""So much of the time that a fruitless attempt took counts as waiting: as long as connecting may take."""
REFUSED_S = 60.0


class Backoff:
    """Consecutive failures of one loop. The jitter spreads machines that lost the same marketplace."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._failures = 0
        self._last_code: str | None = None

    async def guard(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` once. When the marketplace fails: one line in the log for each outage, then wait."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await work()
        except MarketplaceError as error:
            if error.code != self._last_code:
                log.warning("%s: %s", name, error)
            self._last_code = error.code
            await asyncio.sleep(self.next_s(error, loop.time() - began_s))
        else:
            if self._last_code is not None:
                log.info("%s: the marketplace answers again", name)
            self._failures, self._last_code = 0, None

    def next_s(self, error: MarketplaceError, took_s: float = 0.0) -> float:
        """Seconds to wait after this failure of an attempt that took so long.

        A refused key will not heal in a second: the longest wait.
        """
        self._failures += 1
        if error.retry_after_s is not None:
            return error.retry_after_s + self._chance.uniform(0, FIRST_S)
        if isinstance(error, UnauthorizedError):
            return self._chance.uniform(REFUSED_S / 2, REFUSED_S)
        is_silent = isinstance(error, UnreachableError)
        longest_s = min(UNREACHABLE_S if is_silent else REFUSED_S, FIRST_S * 2 ** min(self._failures - 1, 10))
        wait_s = self._chance.uniform(longest_s / 2, longest_s)
        return max(wait_s / 2, wait_s - min(took_s, ATTEMPT_S)) if is_silent else wait_s
