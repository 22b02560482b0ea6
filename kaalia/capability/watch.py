"""Looks at the GPUs every few seconds, and has them read at once when something is otherwise. It judges nothing itself.

A look costs a twentieth of a reading, and makes the same calls. What it cannot wait for is told from here: a reading of
a driver that hangs would hang, too.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

from kaalia.clock import Clock
from kaalia.host.nvml import NvmlProbe
from kaalia.host.nvml_look import Look
from kaalia.model.gpu_health import GpuFigures, NvmlState
from kaalia.pulse import PULSE
from kaalia.service import run_forever
from kaalia.store import gpu_health
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database

log = logging.getLogger(__name__)

CPU_SHARE = 0.004
"""Of one core, that looks may take: where the driver takes its time, as without persistence mode, they become rare."""
PAUSE_MAX_S = 60.0
READINGS, READING_EVERY_S = 60, 20.0
"""So many readings out of turn at once, and one more each so often: a GPU that comes and goes costs no more."""


class GpuWatchService:
    """`interval_s`: between two looks. It begins when the GPUs have been read for the first time."""

    name = "gpu-watch"

    def __init__(self, database: Database, changes: Changes, clock: Clock, probe: NvmlProbe, interval_s: float) -> None:
        self._database = database
        self._changes = changes
        self._clock = clock
        self._probe = probe
        self._interval_s = interval_s
        self._read, self._machine = changes.subscribe(Topic.GPUS), changes.subscribe(Topic.MACHINE)
        self._seen: tuple[NvmlState, str] | None = None
        self._readings, self._counted_at_s = float(READINGS), clock.monotonic_s()
        self._figures: Mapping[int, GpuFigures] = {}

    def figures(self) -> Mapping[int, GpuFigures]:
        """Of the newest look, by the driver's index."""
        return self._figures

    async def run(self) -> None:
        await wait(self._read, None)
        try:
            await run_forever(self.name, self._turn)
        finally:
            await self._probe.rest()

    async def _turn(self) -> None:
        with PULSE.turn(self.name):
            found = await self.look()
        if found.state is NvmlState.NO_DRIVER:
            await self._probe.rest()
            await wait(self._machine, None)  # a driver that was installed is found by the next report
            return
        await asyncio.sleep(min(max(self._interval_s, found.cpu_s / CPU_SHARE), PAUSE_MAX_S))

    async def look(self) -> Look:
        """One look; rings for a reading where that is worth it. Raises StoreError."""
        found = await self._probe.look()
        self._figures = found.figures
        seen = found.state, "" if found.state is NvmlState.HUNG else found.marks
        is_news = seen != self._seen or await self._is_otherwise(found)
        if is_news and self._may_read():
            log.info("%s: the driver answers otherwise: %s %s", self.name, found.state, found.marks[:1000])
            self._seen = seen
            await self._have_read(found)
        return found

    async def _is_otherwise(self, found: Look) -> bool:
        """The newest reading knows something else: it hung, or died, and the driver is well."""
        if not self._read.is_set():
            return False
        self._read.clear()
        reading = await self._database.read(gpu_health.get)
        is_sound = reading is None or (reading.state is NvmlState.OK and not reading.uncounted)
        return found.state is NvmlState.OK and not is_sound

    async def _have_read(self, found: Look) -> None:
        if found.state is not NvmlState.HUNG:
            self._changes.ring(Topic.DRIVER)
            return
        before = await self._database.read(gpu_health.get)
        if before is None:
            return
        hung = replace(
            before,
            read_at=self._clock.now(),
            state=NvmlState.HUNG,
            reason=found.marks,
            error="",
            uncounted="",
            gpus=(),
            errors={},
            out_of_turn=True,
        )
        await self._database.transaction(lambda tx: gpu_health.put(tx, hung), Topic.GPUS)
        self._read.clear()

    def _may_read(self) -> bool:
        now_s = self._clock.monotonic_s()
        more = (now_s - self._counted_at_s) / READING_EVERY_S
        self._readings, self._counted_at_s = min(READINGS, self._readings + more), now_s
        if self._readings < 1:
            return False
        self._readings -= 1
        return True
