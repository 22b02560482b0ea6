"""Lets a prober try every port of the range, TCP and UDP, from outside, and stores the map of what it found.

Anew when it was ordered, when address or range change, and once a day. For the moment of a batch this machine listens
on free ports and answers; ports of contracts are only looked at, and one that a renter is to get is given up at once.
A prober that says it got an answer that this machine never gave is not believed in anything.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol as Interface

from kaalia.capability import address, probing
from kaalia.capability.pacing import Pacing
from kaalia.capability.probing import Ask, Gate, Machine
from kaalia.clock import Clock
from kaalia.contracts import remedies
from kaalia.contracts.remedies import Surroundings
from kaalia.errors import KaaliaError, MarketplaceError, Problem
from kaalia.host.answering import Answering
from kaalia.model.health import Condition, Severity
from kaalia.model.machine import PortRange
from kaalia.model.reach import PortMap, ProbeProgress
from kaalia.model.workload import Protocol
from kaalia.service import run_forever
from kaalia.store import conditions, reach
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction

AFTER_S = (10.0, 30.0)
"""A daemon that starts has better things to do; and not all machines of a marketplace start probing at once."""
LOOK_S = 600.0

log = logging.getLogger(__name__)


class Link(Interface):
    """The way to a prober."""

    async def name(self) -> str | None: ...

    def open(self) -> AbstractAsyncContextManager[Ask]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says. `public_ip` None: auto."""

    port_range: PortRange
    public_ip: str | None
    every: timedelta


class ReachService:
    """One loop; one probe at a time. `surroundings` reads the machine's addresses, and takes a moment."""

    name = "reach"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        wanted: Wanted,
        link: Link,
        answering: Answering,
        surroundings: Callable[[], Awaitable[Surroundings]],
        gate: Gate,
        chance: random.Random | None = None,
        after_s: tuple[float, float] = AFTER_S,
        routed: Callable[[], str | None] = address.routed,
    ) -> None:
        self._database = database
        self._clock = clock
        self._wanted = wanted
        self._link = link
        self._answering = answering
        self._surroundings = surroundings
        self._gate = gate
        self._pacing = Pacing(clock, after_s, chance)
        self._routed = routed
        self._bell = changes.subscribe(Topic.PORTS, Topic.ADDRESS)

    async def run(self) -> None:
        await self._database.transaction(_forget_unfinished)
        await self._gate.close()
        self._pacing.start()
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        if not await self._is_due():
            await wait(self._bell, self._pacing.sleep_s(LOOK_S))
            return
        await self.probe()

    async def _is_due(self) -> bool:
        progress, known, told = await self._database.read(
            lambda tx: (reach.get_progress(tx), reach.get_map(tx), reach.get_seen_address(tx))
        )
        name = await self._link.name()
        if progress is not None:
            return True
        if name is None or not self._pacing.may_begin:
            return False
        routed = await asyncio.to_thread(self._routed)
        return known is None or self._is_old(known, name, told, routed)

    def _is_old(self, known: PortMap, name: str, told: str | None, routed: str | None) -> bool:
        age = self._clock.now() - known.probed_at
        return (
            told != known.told_address
            or (None not in (routed, known.routed_ip) and routed != known.routed_ip)
            or known.port_range != self._wanted.port_range
            or known.configured_ip != self._wanted.public_ip
            or known.prober != name
            or not timedelta(0) <= age < self._pacing.spread(self._wanted.every)
        )

    async def probe(self) -> PortMap | None:
        """One probe of the whole range, stored. None: it failed, and a condition says why."""
        progress = await self._database.read(reach.get_progress) or ProbeProgress(self._clock.now())
        try:
            found = await self._probe(progress)
        except (KaaliaError, OSError) as error:
            await self._failed(error)
            return None
        except BaseException:
            self._answering.close()
            raise
        self._pacing.succeeded()
        wrong = [_told(problem) for problem in found.findings]
        now = self._clock.now()

        def store(tx: Transaction) -> None:
            reach.put_map(tx, found)
            reach.put_progress(tx, None)
            conditions.replace(tx, reach.SOURCE_MAP, wrong, now)
            conditions.replace(tx, reach.SOURCE_PROBER, (), now)

        await self._database.transaction(store)
        tcp, udp = (found.open_count(each) for each in (Protocol.TCP, Protocol.UDP))
        log.info("ports: %d of %d TCP and %d UDP proven at %s", tcp, len(found.port_range), udp, found.address)
        return found

    async def _probe(self, progress: ProbeProgress) -> PortMap:
        name = await self._link.name()
        if name is None:
            raise MarketplaceError(
                "not_enrolled",
                "cannot probe the ports: this machine is not enrolled",
                remedy="run: kaalia enroll URL --token-file FILE; or set probe.url to a prober",
            )
        earlier, told = await self._database.read(lambda tx: (reach.get_map(tx), reach.get_seen_address(tx)))
        around = await self._surroundings()
        machine = Machine(
            self._database, self._answering, self._clock, self._wanted.port_range, self._wanted.public_ip, self._gate
        )

        async def tell(done: int, total: int) -> None:
            now = ProbeProgress(progress.ordered_at, done, total)
            await self._database.transaction(lambda tx: reach.put_progress(tx, now))

        async with self._link.open() as ask:
            found = await probing.probe(machine, ask, name, earlier, around.local_ips, tell)
        findings = await asyncio.to_thread(remedies.findings, found, around)
        return replace(found, findings=findings, told_address=told, routed_ip=around.routed_ip)

    async def _failed(self, error: Exception) -> None:
        """What is known stays known."""
        self._answering.close()
        problem = error.problem if isinstance(error, KaaliaError) else _of_system(error)
        log.warning("ports: the probe failed: %s", error)
        now = self._clock.now()
        self._pacing.failed(error)

        def store(tx: Transaction) -> None:
            reach.put_progress(tx, None)
            conditions.replace(tx, reach.SOURCE_PROBER, [_told(problem)], now)

        await self._database.transaction(store)


class NoReachService:
    """With `probe.url: off`: forgets what earlier probes found, and does nothing."""

    name = "reach"

    def __init__(self, database: Database, clock: Clock, gate: Gate) -> None:
        self._database = database
        self._clock = clock
        self._gate = gate

    async def run(self) -> None:
        now = self._clock.now()

        def forget(tx: Transaction) -> None:
            reach.forget(tx)
            for source in (reach.SOURCE_MAP, reach.SOURCE_PROBER):
                conditions.replace(tx, source, (), now)

        await self._database.transaction(forget)
        await self._gate.close()
        await asyncio.Event().wait()


def _forget_unfinished(tx: Transaction) -> None:
    """A probe that a crash cut off begins anew when it is due; an order that was not begun stands."""
    progress = reach.get_progress(tx)
    if progress is not None and progress.total:
        reach.put_progress(tx, None)


def _told(problem: Problem) -> Condition:
    return Condition(problem, Severity.WARN, "a later probe finds it mended: kaalia ports --probe")


def _of_system(error: Exception) -> Problem:
    return Problem(
        "probe_failed",
        f"cannot listen on the ports of the range for a moment: {error}",
        "see the limit of open files of the service: LimitNOFILE=",
    )
