"""What a handler of the local API can reach: the store, to read from, and when the daemon started."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from aiohttp import web

from kaalia.clock import Clock
from kaalia.errors import Problem, StoreError
from kaalia.model.gpu_health import GpuFigures
from kaalia.model.usage import ContainerUsage
from kaalia.store.changes import Topic
from kaalia.store.database import Database, Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """`safe_mode`: why the state cannot be used; then the store holds nothing that could be read.

    `clock_problem`: what is wrong with the time right now. `heard_at`: when the marketplace last answered.
    """

    database: Database
    clock: Clock
    started_at: datetime
    clock_problem: Callable[[], Problem | None] = lambda: None
    safe_mode: Problem | None = None
    probes_ports: bool = True
    """False: the configuration says that nobody tries the ports."""
    measures_speed: bool = True
    """False: the configuration says that the speed is measured with no peer."""
    notifications: Callable[[Transaction, datetime], object] | None = None
    """Reads how the owner is told, a wire.notification.NotifyDocument. None: the configuration names no channel."""
    heard_at: Callable[[], datetime | None] = lambda: None
    usages: Callable[[Iterable[str]], Mapping[str, ContainerUsage]] = lambda _: {}
    """What containers use now, by their ids. Blocks."""
    figures: Callable[[], Mapping[int, GpuFigures]] = dict
    """What moves of the GPUs, by the driver's index: newer than their report, where it is there."""
    canary_every: timedelta | None = None
    """How often the machine proves itself; None: only when it is asked for."""
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the socket answers."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """A read of the store. Raises StoreError, in safe mode always."""
        if why := self.safe_mode:
            raise StoreError(why.code, why.message, remedy=why.remedy, evidence=why.evidence)
        return await self.database.read(work)

    async def write(self, work: Callable[[Transaction], T], *topics: Topic) -> T:
        """A wish of the owner's, durable when this returns. Raises StoreError, in safe mode always."""
        if why := self.safe_mode:
            raise StoreError(why.code, why.message, remedy=why.remedy, evidence=why.evidence)
        return await self.database.transaction(work, *topics)


CONTEXT = web.AppKey("context", Context)


def of(request: web.Request) -> Context:
    return request.app[CONTEXT]
