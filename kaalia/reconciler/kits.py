"""The access kit: whether there is one, told as long as there is none; and older ones, removed when nobody has them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Protocol

from kaalia.clock import Clock
from kaalia.errors import WorkloadError
from kaalia.model.health import Condition, Severity
from kaalia.service import run_forever
from kaalia.store import changes as bells
from kaalia.store import conditions
from kaalia.store.database import Database

log = logging.getLogger(__name__)

SOURCE = "access"
LOOK_S = 60.0
REMOVE_S = 3600.0


class KitFolder(Protocol):
    """`runtime.container.old_kits`."""

    def check(self) -> None: ...

    def older(self, now: datetime) -> tuple[Path, ...]: ...

    def remove(self, older: Collection[Path], sources: Collection[str]) -> tuple[str, ...]: ...


class KitWatch:
    """`sources`: all that containers of this machine have mounted.

    `changed`: set when a launch found no kit, or one again.
    """

    name = "kits"

    def __init__(
        self,
        database: Database,
        kits: KitFolder,
        sources: Callable[[], Awaitable[frozenset[str]]],
        changed: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._database = database
        self._kits = kits
        self._sources = sources
        self._changed = changed
        self._clock = clock
        self._told: list[Condition] | None = None
        self._remove_s = clock.monotonic_s()

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        await self.look()
        await bells.wait(self._changed, LOOK_S)

    async def look(self) -> None:
        """One look; now and then it removes. Raises KaaliaError, and then the next look tries again."""
        await self._tell()
        if self._clock.monotonic_s() < self._remove_s:
            return
        older = await asyncio.to_thread(self._kits.older, self._clock.now())
        if older and (gone := await asyncio.to_thread(self._kits.remove, older, await self._sources())):
            log.info("kits: removed what nothing has mounted any more: %s", ", ".join(gone))
        self._remove_s = self._clock.monotonic_s() + REMOVE_S

    async def _tell(self) -> None:
        found = []
        try:
            await asyncio.to_thread(self._kits.check)
        except WorkloadError as error:
            found = [Condition(error.problem, Severity.WARN, "a kit is there: it is looked for every minute")]
        if found != self._told:
            now = self._clock.now()
            await self._database.transaction(lambda tx: conditions.replace(tx, SOURCE, found, now))
            self._told = found
