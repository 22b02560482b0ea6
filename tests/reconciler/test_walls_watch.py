"""What the watch over tenants' walls tells, and for how long."""

import asyncio

import pytest

from kaalia.errors import HostError, Problem
from kaalia.model.health import Condition, Severity
from kaalia.reconciler.walls_watch import WallsWatch
from kaalia.runtime.networking import Mended
from kaalia.store import conditions
from kaalia.store.database import Database
from tests.support.clock import FakeClock


class FakeWalls:
    """Walls that fall, or cannot be raised, when the test says so."""

    def __init__(self) -> None:
        self.fallen: tuple[str, ...] = ()
        self.error: HostError | None = None
        self.looks = 0
        self.alarm = asyncio.Event()

    async def mend(self) -> Mended:
        self.looks += 1
        if self.error is not None:
            raise self.error
        mended, self.fallen = Mended(self.fallen), ()
        return mended

    async def alarmed(self, timeout_s: float) -> None:
        await asyncio.wait_for(self.alarm.wait(), timeout_s)
        self.alarm.clear()


@pytest.fixture
def walls() -> FakeWalls:
    return FakeWalls()


@pytest.fixture
def ports() -> FakeWalls:
    """They are mended as walls are."""
    return FakeWalls()


@pytest.fixture
def watch(store: Database, clock: FakeClock, walls: FakeWalls, ports: FakeWalls) -> WallsWatch:
    return WallsWatch(store, walls, ports, clock)


async def told(store: Database) -> list[Condition]:
    return [one.condition for one in await store.read(conditions.all_open) if one.source == "walls"]


async def test_walls_that_stand_are_no_news(store: Database, watch: WallsWatch) -> None:
    await watch.look()

    assert await told(store) == []


async def test_a_repair_is_told_for_an_hour(
    store: Database, clock: FakeClock, watch: WallsWatch, walls: FakeWalls
) -> None:
    walls.fallen = ("KAALIA-WALLS-1", "PREROUTING")
    await watch.look()
    (condition,) = await told(store)
    clock.advance(59 * 60)
    await watch.look()
    (later,) = await told(store)
    clock.advance(2 * 60)
    await watch.look()

    assert (condition.problem.code, condition.severity) == ("walls_repaired", Severity.WARN)
    assert condition.problem.evidence == "KAALIA-WALLS-1, PREROUTING"
    assert later == condition
    assert await told(store) == []


async def test_walls_that_cannot_be_raised_are_told_until_they_stand(
    store: Database, watch: WallsWatch, walls: FakeWalls
) -> None:
    walls.error = HostError("firewall_missing", "cannot read the firewall", remedy="install iptables", evidence="no")
    await watch.look()
    (condition,) = await told(store)
    walls.error = None
    await watch.look()

    assert (condition.problem.code, condition.severity) == ("walls_missing", Severity.CRITICAL)
    assert (condition.problem.remedy, condition.problem.evidence) == ("install iptables", "no")
    assert "cannot read the firewall" in condition.problem.message
    assert await told(store) == []


async def test_who_changes_the_rules_all_the_time_is_told_once_and_answered_more_slowly(
    store: Database, clock: FakeClock, watch: WallsWatch, walls: FakeWalls
) -> None:
    for _ in range(12):
        walls.fallen = ("PREROUTING",)
        await watch.look()
        clock.advance(60)
    (condition,) = await told(store)
    slow_s = watch.pause_s
    for _ in range(59):
        clock.advance(60)
        await watch.look()

    assert (condition.problem.code, condition.severity) == ("walls_contested", Severity.WARN)
    assert condition.problem.evidence == "PREROUTING"
    assert await told(store) == []
    assert watch.pause_s < slow_s


async def test_ports_are_told_by_codes_of_their_own(
    store: Database, clock: FakeClock, watch: WallsWatch, walls: FakeWalls, ports: FakeWalls
) -> None:
    """What is wrong with the walls hides nothing of the ports."""
    walls.error = HostError("firewall_busy", "cannot read the firewall")
    ports.fallen = ("KAALIA-PORTS-1",)
    await watch.look()
    both = {one.problem.code: one for one in await told(store)}
    walls.error, ports.error = None, HostError("firewall_missing", "cannot read the firewall")
    clock.advance(61 * 60)
    await watch.look()
    (missing,) = await told(store)

    assert both.keys() == {"walls_missing", "ports_repaired"}
    assert both["ports_repaired"].problem.evidence == "KAALIA-PORTS-1"
    assert (missing.problem.code, missing.severity) == ("ports_missing", Severity.CRITICAL)


async def test_an_alarm_is_followed_by_a_look(
    watch: WallsWatch, walls: FakeWalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("SETTLE_S", "PAUSE_S"):
        monkeypatch.setattr(f"kaalia.reconciler.walls_watch.{pause}", 0.0)
    running = asyncio.ensure_future(watch.run())
    try:
        async with asyncio.timeout(30):
            for looks in (1, 2, 3):
                while walls.looks < looks:
                    await asyncio.sleep(0.001)
                walls.alarm.set()
    finally:
        running.cancel()


class FakeIpv6:
    """The machine has IPv6 that its contracts cannot have."""

    async def problem(self) -> Problem | None:
        return Problem("ipv6_unavailable", "cannot give contracts IPv6, which this machine has: it rains", "wait")


async def test_ipv6_that_contracts_cannot_have_is_told(
    store: Database, clock: FakeClock, walls: FakeWalls, ports: FakeWalls
) -> None:
    await WallsWatch(store, walls, ports, clock, ipv6=FakeIpv6()).look()

    (condition,) = await told(store)
    assert (condition.problem.code, condition.severity) == ("ipv6_unavailable", Severity.WARN)
