"""The service of ports with a real prober beside it, in one process: the way to it, a firewall, and both together."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from kaalia.capability.probing import Ask
from kaalia.capability.reach import ReachService, Wanted
from kaalia.contracts.remedies import Surroundings
from kaalia.errors import UnreachableError
from kaalia.host.answering import Answering
from kaalia.model.reach import Outcome, Place
from kaalia.prober.bounds import LOOPBACK
from kaalia.prober.work import Prober
from kaalia.store import conditions
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from kaalia.wire.error import ApiError
from kaalia.wire.probe import ProbeReply, ProbeRequest, ProbeResult
from tests.support.clock import FakeClock
from tests.support.free_range import free_range

HERE = "127.0.0.1"
RANGE = free_range(20)


class Beside:
    """The way to a prober in this process; `twist` changes what it says."""

    def __init__(self, seen: str = HERE) -> None:
        self.prober = Prober(LOOPBACK)
        self.seen = seen
        self.asked: list[ProbeRequest] = []
        self.twist: Callable[[ProbeReply], ProbeReply] = lambda reply: reply
        self.fails: Exception | None = None
        self.before: Callable[[ProbeRequest], Awaitable[None]] | None = None

    async def name(self) -> str | None:
        return "http://prober"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ask]:
        yield self.ask

    async def ask(self, request: ProbeRequest) -> ProbeReply:
        if self.fails is not None:
            raise self.fails
        self.asked.append(request)
        if self.before is not None:
            await self.before(request)
        try:
            return self.twist(await self.prober.probe(HERE, request))
        except ApiError as error:
            wait_s = error.extra.get("retry_after_s")
            raise UnreachableError(error.code, str(error), status=error.status, retry_after_s=wait_s) from error


class Mute(Prober):
    """Tries nothing, as if a firewall dropped it all."""

    async def probe(self, seen_address: str, request: ProbeRequest, **how: Any) -> ProbeReply:
        results = tuple(ProbeResult(one.port, one.protocol, Outcome.SILENT) for one in request.targets)
        return ProbeReply(seen_address, seen_address, results)


class Firewall:
    """A gate in this process: what is let in, what was counted, and whether there is one at all."""

    def __init__(self) -> None:
        self.let_in: set[Place] = set()
        self.opened = 0
        self.counted: bool | None = True
        self.is_there = True

    async def open(self, free: Collection[Place], held: Collection[Place]) -> bool:
        self.opened += 1
        self.let_in = {*free, *held} if self.is_there else set()
        return self.is_there

    async def has_counted(self) -> bool | None:
        return self.counted

    async def close(self) -> None:
        self.let_in = set()


class Rig:
    def __init__(self, store: Database, changes: Changes, clock: FakeClock, public_ip: str | None = HERE) -> None:
        self.store, self.changes, self.clock = store, changes, clock
        self.link, self.answering, self.firewall = Beside(), Answering(), Firewall()
        self.wanted = Wanted(RANGE, public_ip, timedelta(hours=24))

    def service(self, after_s: tuple[float, float] = (0, 0)) -> ReachService:
        async def around() -> Surroundings:
            return Surroundings(("192.168.1.20",))

        ways = self.link, self.answering, around, self.firewall
        return ReachService(self.store, self.changes, self.clock, self.wanted, *ways, after_s=after_s)

    async def codes(self) -> set[str]:
        return {one.condition.problem.code for one in await self.store.read(conditions.all_open)}
