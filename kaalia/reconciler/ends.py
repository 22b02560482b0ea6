"""Safe mode's one duty to contracts: what runs is stopped at the end that its label names. Nothing else is touched.

Used while the books cannot be: containers are known by their labels alone, so nothing is started, removed or told, and
an extension that only the books know is not seen: such a contract is stopped too early, its data stay. No intent can be
written; none is needed, since a stop that a crash interrupts is found again by the next look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from kaalia.clock import Clock
from kaalia.reconciler.actions import Stop
from kaalia.reconciler.diff import diff_orphan
from kaalia.runtime.base import Observed, Runtime
from kaalia.service import run_forever

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 60.0
LOOK_MIN_S = 1.0


class EndsService:
    """`runtimes` gives the runtime of each name that this machine's containers bear. Raises nothing; it tries again."""

    name = "ends"

    def __init__(
        self, runtimes: Callable[[], Awaitable[Sequence[Runtime]]], clock: Clock, stop_grace_s: float = 10.0
    ) -> None:
        self._runtimes = runtimes
        self._clock = clock
        self._stop_grace_s = stop_grace_s
        self._known: set[str] = set()

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        waits_s = [LOOK_INTERVAL_S]
        for runtime in await self._runtimes():
            found = await runtime.observe()
            for one in found.set_apart:
                self._tell(one.container_id, f"{one.name} is never touched: {one.problem.message}")
            for observed in found.workloads:
                self._tell(observed.container_id, f"{observed.name}, {observed.state}, ends at {observed.end_at}")
                waits_s += await self._enforce(runtime, observed)
        await asyncio.sleep(max(LOOK_MIN_S, min(waits_s)))

    async def _enforce(self, runtime: Runtime, observed: Observed) -> list[float]:
        """Stop what is over. Seconds until this one ends, if it will."""
        now = self._clock.now()
        action = diff_orphan(observed, missing_since=now, missing_revisions=0, now=now)
        if isinstance(action, Stop):
            log.warning("safe mode: %s ended at %s: stopping it, its data stay", observed.name, observed.end_at)
            await runtime.stop(action.contract_id, self._stop_grace_s)
        if observed.end_at is None or observed.end_at <= now:
            return []
        return [(observed.end_at - now).total_seconds()]

    def _tell(self, container_id: str, text: str) -> None:
        if container_id not in self._known:
            self._known.add(container_id)
            log.warning("safe mode: found %s", text)
