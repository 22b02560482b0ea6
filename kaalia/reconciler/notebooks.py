"""Looks how Jupyter is doing in containers that just started, for its renter: nothing else follows from it.

Soon after a start often, later rarely, and where Jupyter runs not at all.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import Clock
from kaalia.contracts import notebook as rules
from kaalia.contracts.contract import Contract
from kaalia.contracts.notebook import UNKNOWN, Notebook
from kaalia.errors import KaaliaError
from kaalia.model.workload import LaunchMode
from kaalia.runtime.base import Observed, ObservedState, Runtime
from kaalia.service import answer_anyway
from kaalia.store import changes as bells

log = logging.getLogger(__name__)

SOON_S = 2.0
LATER_S = 60.0
"""For what failed: it may still be mended, by the renter or by a network that comes back."""
SOON_FOR_S = 600.0
"""An installation takes a minute; over a slow line some more."""
WELL_S = 15.0
WELL_FOR_S = 60.0
"""One that ends again and again is told by then."""


@dataclass(slots=True)
class _Watched:
    """One start of one container."""

    start: tuple[str, datetime | None]
    began_s: float
    next_s: float | None
    found: Notebook = UNKNOWN
    well_since_s: float | None = None


class Notebooks:
    """`changed` is called when there are other words for a renter."""

    def __init__(self, runtime: Runtime, clock: Clock, changed: Callable[[], None]) -> None:
        self._runtime = runtime
        self._clock = clock
        self._changed = changed
        self._watched: dict[int, _Watched] = {}
        self._bell = asyncio.Event()

    def words(self, contract_id: int) -> str:
        """What the renter should know; nothing while it runs."""
        known = self._watched.get(contract_id)
        return "" if known is None else known.found.words

    def follow(self, contracts: Iterable[Contract], present: Iterable[Observed]) -> None:
        """Watch those that run now, each from its start on."""
        seen = {one.contract_id: one for one in present if one.state is ObservedState.RUNNING}
        wanted = {one.contract_id for one in contracts if one.spec.launch_mode is LaunchMode.JUPYTER} & seen.keys()
        now_s, kept = self._clock.monotonic_s(), {}
        for contract_id in wanted:
            start = (seen[contract_id].container_id, seen[contract_id].started_at)
            known = self._watched.get(contract_id)
            is_same = known is not None and known.start == start
            kept[contract_id] = known if known is not None and is_same else _Watched(start, now_s, now_s + SOON_S)
        if any(one is not self._watched.get(contract_id) for contract_id, one in kept.items()):
            self._bell.set()
        self._watched = kept

    async def turn(self) -> None:
        await self.look()
        times_s = [one.next_s for one in self._watched.values() if one.next_s is not None]
        wait_s = max(min(times_s) - self._clock.monotonic_s(), 0.0) if times_s else None
        await bells.wait(self._bell, wait_s)

    async def look(self) -> None:
        """At those whose time it is."""
        for contract_id, one in list(self._watched.items()):
            if one.next_s is None or self._clock.monotonic_s() < one.next_s:
                continue
            # What one renter wrote must keep no other renter's from being read.
            name = f"reconciler: Jupyter of contract {contract_id}"
            found = await answer_anyway(name, self._read(contract_id), lambda: None) or one.found
            has_changed, one.found = found != one.found, found
            one.next_s = self._next_s(one)
            if has_changed:
                self._changed()

    async def _read(self, contract_id: int) -> Notebook | None:
        """None: nobody knows."""
        try:
            note = await self._runtime.notebook(contract_id)
        except KaaliaError as error:
            log.debug("reconciler: what Jupyter of contract %d does is not known: %s", contract_id, error)
            note = None
        return None if note is None else rules.read(note)

    def _next_s(self, one: _Watched) -> float | None:
        now_s = self._clock.monotonic_s()
        is_well = one.found.is_settled and not one.found.words
        one.well_since_s = (one.well_since_s or now_s) if is_well else None
        if one.well_since_s is not None:
            return now_s + WELL_S if now_s - one.well_since_s < WELL_FOR_S else None
        is_soon = not one.found.is_settled and now_s - one.began_s < SOON_FOR_S
        return now_s + (SOON_S if is_soon else LATER_S)
