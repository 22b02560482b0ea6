"""Safe mode's one duty to contracts: what runs is stopped at its end. Nothing else is touched.

Used while the books cannot be: containers are known by their labels alone, so nothing is started, removed or told. The
end is the one that the label names, or a later one that the record of ends beside the books names (`store.ends`); the
label alone, when that record is lost as well. No intent can be written; none is needed, since a stop that a crash
interrupts is found again by the next look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from kaalia.clock import Clock
from kaalia.reconciler.actions import Stop
from kaalia.reconciler.diff import diff_orphan
from kaalia.runtime.base import Observed, Runtime
from kaalia.service import run_forever
from kaalia.store.ends import Ends, at_the_latest

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 60.0
LOOK_MIN_S = 1.0


class EndsService:
    """`runtimes` gives the runtime of each name that this machine's containers bear, `recorded` the record of ends.

    Raises nothing; it tries again.
    """

    name = "ends"

    def __init__(
        self,
        runtimes: Callable[[], Awaitable[Sequence[Runtime]]],
        recorded: Callable[[], Ends],
        clock: Clock,
        stop_grace_s: float = 10.0,
    ) -> None:
        self._runtimes = runtimes
        self._recorded = recorded
        self._clock = clock
        self._stop_grace_s = stop_grace_s
        self._known: set[str] = set()

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        waits_s = [LOOK_INTERVAL_S]
        recorded = await asyncio.to_thread(self._recorded)
        for runtime in await self._runtimes():
            found = await runtime.observe()
            for one in found.set_apart:
                self._tell(one.container_id, f"{one.name} is never touched: {one.problem.message}")
            for seen in found.workloads:
                observed = replace(seen, end_at=at_the_latest(seen.end_at, seen.contract_id, recorded))
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
