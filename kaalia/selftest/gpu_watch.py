"""Reads the GPUs while steps load them: how hot they become, what clocks they hold, and which counters of errors grow.

By the probe of the driver, from the host: a work program sees its results and nothing of this. One reading at a time.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from kaalia.clock import Clock
from kaalia.contracts.under_load import Broken, Moment, judge
from kaalia.contracts.under_load import figures as figures_of
from kaalia.errors import HostError
from kaalia.host.nvml import NvmlProbe
from kaalia.model.gpu_health import NvmlState
from kaalia.model.selftest import Figure, Sample
from kaalia.service import guarded

EVERY_S = 2.0
"""A reading takes 80 ms of a core, and some seconds where the driver has to wake its GPUs."""

T = TypeVar("T")


class GpuWatch:
    """Of one step. `uuids`: the GPUs that it loads."""

    def __init__(self, probe: NvmlProbe, clock: Clock, uuids: Collection[str], every_s: float = EVERY_S) -> None:
        self._probe = probe
        self._clock = clock
        self._uuids = frozenset(uuids)
        self._every_s = every_s
        self._moments: list[Moment] = []

    async def around(self, work: Coroutine[Any, Any, T], tell: Callable[[Sample], None] = lambda _: None) -> T:
        """`work`, with readings before it, while it runs and after it. `tell` hears of those while it runs.

        Raises HostError `load_driver_hung`, `load_driver_failed`: then nothing is known of the GPUs, and `work` is
        broken off; and what `work` raises.
        """
        try:
            self._moments = [await self._look()]
            began_s = self._moments[0].at_s
            found = await guarded(work, self._sampled(began_s, tell))
        finally:
            work.close()  # one that was not begun
        self._moments.append(await self._look())
        return found

    async def broken(self) -> tuple[Broken, ...]:
        """The rules that GPUs broke."""
        return await asyncio.to_thread(judge, self._moments)  # it reads a file

    def figures(self) -> tuple[Figure, ...]:
        return tuple(figures_of(self._moments))

    async def _sampled(self, began_s: float, tell: Callable[[Sample], None]) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            moment = await self._look()
            self._moments.append(moment)
            for sample in samples(moment, began_s):
                tell(sample)

    async def _look(self) -> Moment:
        reading = await self._probe.read()
        if reading.state is NvmlState.HUNG:
            raise HostError(
                "load_driver_hung",
                f"cannot watch the GPUs under load: {reading.reason}",
                remedy="see dmesg for what it waits for; a driver that hangs comes back by a reboot",
            )
        if reading.state is not NvmlState.OK:
            raise HostError(
                "load_driver_failed",
                f"cannot watch the GPUs under load: {reading.reason or 'the driver is gone'}",
                remedy="see dmesg and nvidia-smi; reboot the machine when it is drained",
            )
        told = {one.uuid: one.facts for one in reading.samples if one.uuid is not None and one.uuid in self._uuids}
        return Moment(self._clock.monotonic_s(), told)


def samples(moment: Moment, began_s: float) -> Iterator[Sample]:
    """What the picture shows of it."""
    for uuid, facts in moment.facts.items():
        yield Sample(
            round(moment.at_s - began_s, 2),
            uuid,
            temperature_c=facts.get("temperature_c"),
            clock_mhz=facts.get("sm_clock_mhz"),
            power_w=facts.get("power_draw_w"),
        )


def words(broken: Sequence[Broken], names: Callable[[str], str]) -> str:
    """`names`: what a GPU is called, by its UUID."""
    return "; ".join(f"{names(one.gpu_uuid)}: {one.words}" for one in broken)
