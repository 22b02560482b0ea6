"""Counters of traffic that work in memory: they count what is sent, until somebody flushes them."""

from collections.abc import Collection, Iterable

from kaalia.errors import HostError
from kaalia.model.traffic import Bytes, Counter, Reading
from kaalia.runtime.base import Counters


class FakeCounters:
    """A `TrafficCounters`. `problem`: what every call raises, if anything."""

    def __init__(self) -> None:
        self.raws: dict[Counter, Bytes] = {}
        self.is_whole = False
        self.problem: HostError | None = None
        self.reads = 0

    def send(self, subnet: str, up: int = 0, down: int = 0) -> None:
        """Packets of a network pass; without a counter nobody sees them."""
        for counter in self.raws:
            if counter.subnet == subnet and self.is_whole:
                self.raws[counter] += Bytes(up, down)

    def flush(self) -> None:
        self.raws.clear()
        self.is_whole = False

    def zero(self) -> None:
        self.raws = dict.fromkeys(self.raws, Bytes())

    async def read(self) -> Counters:
        self._may_fail()
        self.reads += 1
        return Counters(tuple(Reading(counter, raw) for counter, raw in self.raws.items()), self.is_whole)

    async def change(self, add: Iterable[Counter], drop: Iterable[Counter]) -> None:
        self._may_fail()
        for counter in drop:
            del self.raws[counter]
        self.raws |= dict.fromkeys(add, Bytes())

    async def build(self, counters: Collection[Counter]) -> None:
        self._may_fail()
        self.raws, self.is_whole = dict.fromkeys(counters, Bytes()), True

    def _may_fail(self) -> None:
        if self.problem is not None:
            raise self.problem
