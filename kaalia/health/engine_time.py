"""How long the container engine takes to say how it is, measured whenever somebody asks it."""

from collections.abc import Awaitable, Callable

from kaalia.clock import Clock
from kaalia.health.engine_pulse import EnginePulse
from kaalia.model.machine import Engine


class EngineTime:
    """Stands between the report and the engine. `pulse` None: an engine that hangs is waited for."""

    def __init__(self, facts: Callable[[], Awaitable[Engine]], clock: Clock, pulse: EnginePulse | None = None) -> None:
        self._facts = facts
        self._clock = clock
        self._pulse = pulse
        self.answer_s: float | None = None
        """Of the newest answer, until there is a newer one; None: there was none when it was asked last."""

    async def facts(self) -> Engine:
        """Raises WorkloadError."""
        asked_s, answer_s = self._clock.monotonic_s(), None
        try:
            found = await self._ask()
            answer_s = self._clock.monotonic_s() - asked_s
        finally:
            self.answer_s = answer_s
        return found

    async def _ask(self) -> Engine:
        if self._pulse is None:
            return await self._facts()
        async with self._pulse.beating():
            return await self._facts()
