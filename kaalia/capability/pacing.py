"""When a thing that the machine does by itself, now and then, may be tried next; machines spread."""

import random
from datetime import timedelta

from kaalia.clock import Clock
from kaalia.errors import MarketplaceError

RETRY_S = (300.0, 900.0, 3600.0)
"""Waits after consecutive failures; the last one repeats."""
GAP_S = 600.0
"""Between two that nobody ordered, whatever changes."""
JITTER = 0.1


class Pacing:
    """`after_s`: how long after the start of the daemon the first one may be, at least and at most."""

    def __init__(self, clock: Clock, after_s: tuple[float, float], chance: random.Random | None = None) -> None:
        self._clock = clock
        self._after_s = after_s
        self._chance = chance or random.SystemRandom()
        self._stretch = self._draw()
        self._failures = 0
        self._not_before_s = 0.0

    def start(self) -> None:
        self._wait(self._chance.uniform(*self._after_s))

    def succeeded(self) -> None:
        self._failures, self._stretch = 0, self._draw()
        self._wait(GAP_S)

    def failed(self, error: Exception) -> None:
        """Not sooner than the other side says."""
        wait_s = RETRY_S[min(self._failures, len(RETRY_S) - 1)] * self._chance.uniform(0.8, 1.2)
        told_s = error.retry_after_s if isinstance(error, MarketplaceError) else None
        self._failures += 1
        self._wait(max(wait_s, told_s or 0.0))

    @property
    def may_begin(self) -> bool:
        return self._left_s <= 0

    def sleep_s(self, look_s: float) -> float:
        """Until the next look: `look_s`, or sooner when one may begin sooner."""
        return look_s if self.may_begin else min(look_s, self._left_s)

    def spread(self, every: timedelta) -> timedelta:
        return every * self._stretch

    @property
    def _left_s(self) -> float:
        return self._not_before_s - self._clock.monotonic_s()

    def _wait(self, seconds: float) -> None:
        self._not_before_s = self._clock.monotonic_s() + seconds

    def _draw(self) -> float:
        return self._chance.uniform(1 - JITTER, 1 + JITTER)
