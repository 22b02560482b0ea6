"""Measures the speed of the line with a peer, now and then, and stores what it found for the report.

When it was ordered, when the address changes, when nothing is known, and once a day; never beside tenants unless the
owner insists, or nothing is known of the machine and they are quiet. What fails is told, and changes no number.
"""

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from kaalia.capability.measuring import Plan, measure
from kaalia.capability.pacing import Pacing
from kaalia.clock import Clock
from kaalia.config_network import host_and_port
from kaalia.contracts import speed as rules
from kaalia.contracts.speed import Leave
from kaalia.errors import ConfigError, HostError, KaaliaError, Problem
from kaalia.host import secret as secret_file
from kaalia.model.health import Condition, Severity
from kaalia.model.speed import Direction, MeasuredSpeed, SpeedFailure, SpeedOrder, SpeedProgress
from kaalia.service import run_forever
from kaalia.store import conditions, reach, speed
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.database import Database, Transaction
from kaalia.units import GB
from kaalia.wire import stream
from kaalia.wire.speed import SpeedGrant, SpeedRequest

AFTER_S = (60.0, 180.0)
"""A daemon that starts has better things to do, and its ports are probed first."""
LOOK_S = 900.0
STREAMS = 8
SECONDS = 10
LIMITED_SECONDS = 3
LIMITED_BYTES = GB // 2

QUIET = frozenset({"speed_tenants_came", "speed_not_served", "speed_withdrawn"})
"""Nothing is wrong with the machine, and its owner need not be warned."""

log = logging.getLogger(__name__)


class Link(Protocol):
    """The way to the marketplace."""

    async def name(self) -> str | None: ...

    async def grant(self, request: SpeedRequest) -> tuple[str, SpeedGrant]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration says. `peer`: HOST:PORT, None: the marketplace; `is_off`: only what is ordered by name."""

    peer: str | None
    secret_path: Path | None
    every: timedelta
    bytes_max: int
    is_off: bool = False
    streams: int = STREAMS
    seconds: int = SECONDS


class SpeedService:
    """One loop; one test at a time."""

    name = "speed"

    def __init__(
        self,
        database: Database,
        changes: Changes,
        clock: Clock,
        wanted: Wanted,
        link: Link,
        chance: random.Random | None = None,
        after_s: tuple[float, float] = AFTER_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._wanted = wanted
        self._link = link
        self._pacing = Pacing(clock, after_s, chance)
        self._bell = changes.subscribe(Topic.SPEED, Topic.ADDRESS)

    async def run(self) -> None:
        await self._database.transaction(_forget_unfinished)
        self._pacing.start()
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        order, stale = await self._database.read(lambda tx: (speed.get_order(tx), speed.get_progress(tx)))
        if stale is not None:  # of a test that ended in a way that nobody expected
            await self._database.transaction(lambda tx: speed.put_progress(tx, None))
        if order is not None:
            await self.test(order)
        elif not self._pacing.may_begin or not await self._is_due():
            await wait(self._bell, self._pacing.sleep_s(LOOK_S))
        elif (may := await self._leave()) is Leave.WAIT:
            await wait(self._bell, LOOK_S)
        else:
            await self.test(None, limited=may is Leave.LIMITED)

    async def _is_due(self) -> bool:
        name = self._wanted.peer or await self._link.name()
        if self._wanted.is_off or name is None:
            return False
        known, address = await self._database.read(lambda tx: (speed.get_result(tx), reach.get_seen_address(tx)))
        return rules.is_due(known, self._clock.now(), self._pacing.spread(self._wanted.every), address)

    async def _leave(self) -> Leave:
        now = self._clock.now()

        def look(tx: Transaction) -> Leave:
            found, known = speed.tenants(tx, now), speed.get_result(tx)
            is_here = known is not None and known.address == reach.get_seen_address(tx)
            return rules.leave(found.running, found.mbps, has_result=is_here, force=False)

        return await self._database.read(look)

    async def test(self, order: SpeedOrder | None, *, limited: bool = False) -> MeasuredSpeed | None:
        """One test, stored. None: it failed, and a condition says why."""
        try:
            found = await self._test(order, limited=limited)
        except (KaaliaError, OSError) as error:
            await self._failed(error, is_ordered=order is not None)
            return None
        self._pacing.succeeded()
        now = self._clock.now()

        def store(tx: Transaction) -> None:
            speed.put_result(tx, found)
            _end(tx)
            speed.put_failure(tx, None)
            conditions.replace(tx, speed.SOURCE, (), now)

        await self._database.transaction(store, Topic.SPEED)
        self._bell.clear()  # that was this service's own ring
        log.info("speed: %.0f Mb/s down, %.0f Mb/s up, by %s", found.down.mbps, found.up.mbps, found.peer)
        return found

    async def _test(self, order: SpeedOrder | None, *, limited: bool) -> MeasuredSpeed:
        address, before = await self._database.transaction(lambda tx: _begin(tx, self._clock.now()))
        name, plan = await self._plan(order, limited=limited)
        bearable = before if limited else 0

        async def tell(progress: SpeedProgress) -> None:
            def put(tx: Transaction) -> int:
                if speed.get_progress(tx) is None:
                    raise HostError("speed_withdrawn", "cannot measure the speed now: who wanted it broke it off")
                speed.put_progress(tx, progress)
                return speed.tenants(tx, self._clock.now()).running

            running = await self._database.transaction(put)
            if running > bearable and not (order and order.force):
                raise HostError(
                    "speed_tenants_came",
                    "cannot measure the speed now: a tenant's instance has begun to run",
                    remedy="wait until it is gone, or: kaalia speedtest --force",
                )

        down, up = await measure(plan, tell)
        return MeasuredSpeed(
            measured_at=self._clock.now(),
            peer=name,
            method=rules.METHOD,
            streams=plan.streams,
            processes=plan.processes,
            down=down,
            up=up,
            limited=limited,
            address=address,
        )

    async def _plan(self, order: SpeedOrder | None, *, limited: bool) -> tuple[str, Plan]:
        """The peer's name, and its order. Raises KaaliaError."""
        seconds = LIMITED_SECONDS if limited else self._wanted.seconds
        size = min(LIMITED_BYTES, self._wanted.bytes_max) if limited else self._wanted.bytes_max
        if (place := (order and order.peer) or self._wanted.peer) is not None:
            return place, await self._own_order(order, place, Sizes(self._wanted.streams, seconds, size, limited))
        host, grant = await self._link.grant(SpeedRequest(self._wanted.streams, seconds, size))
        plan = Plan(
            host=host,
            port=grant.port,
            order=grant.order,
            key=grant.key,
            streams=min(grant.streams, self._wanted.streams),
            seconds=min(grant.seconds, seconds),
            bytes_max=min(grant.bytes_max, size),
            limited=limited,
        )
        return await self._link.name() or host, plan

    async def _own_order(self, order: SpeedOrder | None, place: str, sizes: "Sizes") -> Plan:
        shared = order.secret if order else ""
        if not shared and self._wanted.secret_path is not None:
            shared = await asyncio.to_thread(secret_file.read, self._wanted.secret_path)
        if not shared:
            raise ConfigError(
                "speed_secret_missing",
                f"cannot measure with {place}: there is no secret that this machine and that peer share",
                remedy="give --secret-file, or set speed.secret_file in the configuration",
            )
        host, port = host_and_port(place)
        identity = secrets.token_bytes(stream.ID_BYTES)
        key = stream.shared_key(shared.encode(), identity)
        return Plan(
            host=host,
            port=port,
            order=identity.hex(),
            key=key.hex(),
            streams=sizes.streams,
            seconds=sizes.seconds,
            bytes_max=sizes.bytes_max,
            limited=sizes.limited,
        )

    async def _failed(self, error: Exception, *, is_ordered: bool) -> None:
        """What is known stays known."""
        problem = error.problem if isinstance(error, KaaliaError) else _of_system(error)
        log.warning("speed: the test failed: %s", error)
        now = self._clock.now()
        self._pacing.failed(error)
        wrong = Condition(problem, Severity.WARN, "a later test succeeds: kaalia speedtest")

        def store(tx: Transaction) -> None:
            _end(tx)
            speed.put_failure(tx, SpeedFailure(now, problem))
            if not is_ordered and problem.code not in QUIET:
                conditions.replace(tx, speed.SOURCE, [wrong], now)

        await self._database.transaction(store)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of an order: `seconds` and `bytes_max` of one direction."""

    streams: int
    seconds: int
    bytes_max: int
    limited: bool


def _begin(tx: Transaction, now: datetime) -> tuple[str | None, int]:
    """The address from which it is measured, and how many tenants run. An order is taken, at most once."""
    speed.put_order(tx, None)
    speed.put_progress(tx, SpeedProgress(Direction.DOWN, 0.0, 0.0))
    return reach.get_seen_address(tx), speed.tenants(tx, now).running


def _end(tx: Transaction) -> None:
    speed.put_order(tx, None)
    speed.put_progress(tx, None)


def _forget_unfinished(tx: Transaction) -> None:
    """A test that a crash cut off begins anew when it is due; an order that was not begun stands."""
    if speed.get_progress(tx) is not None:
        _end(tx)


def _of_system(error: Exception) -> Problem:
    return Problem("speed_failed", f"cannot measure the speed: {error}", "see the log of the daemon")
