"""How long the container engine takes to say how it is, measured whenever somebody asks it."""

from collections.abc import Awaitable, Callable

from kaalia.clock import Clock
from kaalia.model.machine import Engine


class EngineTime:
    """Stands between the report and the engine."""

    def __init__(self, facts: Callable[[], Awaitable[Engine]], clock: Clock) -> None:
        self._facts = facts
        self._clock = clock
        self.answer_s: float | None = None
        """Of the newest answer; None: there was none."""

    async def facts(self) -> Engine:
        """Raises WorkloadError."""
        self.answer_s, asked_s = None, self._clock.monotonic_s()
        found = await self._facts()
        self.answer_s = self._clock.monotonic_s() - asked_s
        return found
