"""The ledger of outages over kills, stops, reboots, sleeps and clocks that jump: none invented, none hidden."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.daemon.timekeeper import Timekeeper
from kaalia.errors import Problem
from kaalia.health import book
from kaalia.health.availability import LOOK_S, AvailabilityService, catalogue
from kaalia.model.availability import Cause, Outage
from kaalia.model.health import Condition, Severity
from kaalia.model.workload import WorkloadState
from kaalia.store import availability, conditions, contracts, enrolment, machine, maintenance, workloads
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from kaalia.store.enrolment import Enrolment
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import START, FakeClock

HOUR = 3600.0


@dataclass
class Machine:
    """One machine and the daemon that runs on it; `dies` is a SIGKILL."""

    database: Database
    clock: FakeClock = field(default_factory=FakeClock)
    is_internet_there: bool = True
    keeper: Timekeeper = field(init=False)
    service: AvailabilityService = field(init=False)

    async def starts(self) -> None:
        self.keeper = Timekeeper(self.database, Changes(), self.clock)
        await self.keeper.open()
        self.service = AvailabilityService(
            self.database, self.clock, self.keeper.lease_time, self.keeper.before, self._ask
        )
        await self.service.start()

    async def runs(self, seconds: float, *, heard: bool = True) -> None:
        """Look after look; with `heard` the marketplace answers all the while."""
        left_s = seconds
        while left_s > 0:
            step_s = min(LOOK_S, left_s)
            left_s -= step_s
            self.clock.advance(step_s)
            await self.keeper.look()
            if heard:
                await self.is_heard()
            await self.service.look()

    async def is_heard(self) -> None:
        at = self.clock.now()
        await self.database.transaction(lambda tx: availability.heard(tx, at, 0.99, None, ()))

    async def ledger(self) -> list[tuple[Cause, float | None]]:
        return [(one.cause, _seconds(one)) for one in await self.outages()]

    async def outages(self) -> tuple[Outage, ...]:
        return await self.database.read(availability.ledger)

    async def _ask(self) -> bool:
        return self.is_internet_there


def _seconds(one: Outage) -> float | None:
    return None if one.end_at is None else round((one.end_at - one.begin_at).total_seconds(), 3)


@pytest.fixture
async def machine_(store: Database) -> Machine:
    made = Machine(store)
    await store.transaction(lambda tx: enrolment.put(tx, Enrolment("https://market.example", 7, {"k": "x"}, START)))
    await made.starts()
    return made


async def test_a_first_start_and_a_quiet_day_are_no_outage(machine_: Machine) -> None:
    await machine_.runs(HOUR)

    assert await machine_.ledger() == []


async def test_a_killed_daemon_was_away_since_it_was_last_seen(machine_: Machine) -> None:
    await machine_.runs(600)
    machine_.clock.advance(300)
    await machine_.starts()

    ((cause, length_s),) = await machine_.ledger()
    assert cause is Cause.DAEMON
    assert length_s is not None
    assert 300 <= length_s <= 360
    assert (await machine_.outages())[0].detail == "the daemon ended without being told"


async def test_a_stopped_daemon_was_away_since_it_was_told(machine_: Machine) -> None:
    await machine_.runs(630)
    await machine_.service.stopped()
    machine_.clock.advance(42)
    await machine_.starts()

    assert await machine_.ledger() == [(Cause.DAEMON, 42.0)]
    assert (await machine_.outages())[0].detail == "the daemon was stopped"


async def test_the_mark_of_a_stop_serves_once(machine_: Machine) -> None:
    await machine_.service.stopped()
    await machine_.starts()
    await machine_.runs(600)
    machine_.clock.advance(600)
    await machine_.starts()

    assert (await machine_.outages())[-1].detail == "the daemon ended without being told"


async def test_a_machine_that_lost_power_was_off(machine_: Machine) -> None:
    await machine_.runs(600)
    machine_.clock.reboot(HOUR)
    machine_.clock.synchronised = True
    await machine_.starts()

    assert await machine_.ledger() == [(Cause.POWER, HOUR)]


async def test_a_machine_that_was_shut_down_in_order_was_planned(machine_: Machine) -> None:
    await machine_.runs(600)
    await machine_.service.stopped()
    machine_.clock.reboot(HOUR)
    machine_.clock.synchronised = True
    await machine_.starts()

    assert await machine_.ledger() == [(Cause.PLANNED, HOUR)]


@pytest.mark.parametrize("way", ["window", "drain"])
async def test_what_was_announced_is_planned(machine_: Machine, way: str) -> None:
    await machine_.runs(600)
    window = Window(START, START + timedelta(hours=3), START - timedelta(days=2))
    if way == "window":
        await machine_.database.transaction(lambda tx: maintenance.put_windows(tx, [window]))
    else:
        await machine_.database.transaction(lambda tx: maintenance.put_cordon(tx, Cordon(START)))
    machine_.clock.reboot(HOUR)
    machine_.clock.synchronised = True
    await machine_.starts()

    assert await machine_.ledger() == [(Cause.PLANNED, HOUR)]


@pytest.mark.parametrize("jump_s", [9 * HOUR, -9 * HOUR])
async def test_a_clock_that_jumps_makes_and_hides_nothing(machine_: Machine, jump_s: float) -> None:
    await machine_.runs(600)
    machine_.clock.jump(jump_s)
    await machine_.runs(600)
    await machine_.service.stopped()
    machine_.clock.advance(60)
    machine_.clock.jump(jump_s)
    machine_.clock.advance(60)
    await machine_.starts()
    machine_.clock.synchronised = True  # time moves by as much, and what is in the ledger stays as long as it was
    await machine_.runs(600)

    assert await machine_.ledger() == [(Cause.DAEMON, 120.0)]


async def test_a_silence_over_a_clock_that_is_set_is_as_long_as_it_was(machine_: Machine) -> None:
    await machine_.runs(60)
    await machine_.runs(600, heard=False)
    machine_.clock.jump(-9 * HOUR)
    machine_.clock.synchronised = True
    await machine_.runs(600, heard=False)
    await machine_.runs(15)

    assert await machine_.ledger() == [(Cause.PLATFORM, 1215.0)]


async def test_how_long_it_was_off_waits_for_a_clock_that_can_be_believed(machine_: Machine) -> None:
    await machine_.runs(600)
    machine_.clock.reboot(HOUR, wall_error_s=-9 * HOUR)
    await machine_.starts()
    await machine_.runs(150, heard=False)
    assert await machine_.ledger() == []

    await machine_.starts()  # killed in the doubt: the doubt is kept
    machine_.clock.jump(9 * HOUR)
    machine_.clock.synchronised = True
    await machine_.runs(15)

    causes = dict(await machine_.ledger())
    assert causes[Cause.POWER] == HOUR
    assert set(causes) == {Cause.POWER, Cause.DAEMON}


async def test_a_machine_that_slept_was_off(machine_: Machine) -> None:
    await machine_.runs(600)
    machine_.clock.suspend(HOUR)
    await machine_.runs(60)

    ((cause, length_s),) = await machine_.ledger()
    assert (cause, length_s) == (Cause.POWER, HOUR)


@pytest.mark.parametrize(
    ("is_there", "was_reached", "cause"),
    [(True, False, Cause.PLATFORM), (False, True, Cause.PLATFORM), (False, False, Cause.NET)],
)
async def test_a_silent_marketplace_is_told_from_a_dead_line(
    machine_: Machine, is_there: bool, was_reached: bool, cause: Cause
) -> None:
    machine_.is_internet_there = is_there
    await machine_.runs(600)
    await machine_.database.transaction(
        lambda tx: availability.failed(tx, "marketplace_unreachable", was_reached=was_reached)
    )
    await machine_.runs(180, heard=False)
    assert await machine_.ledger() == [], "as long as the marketplace waits itself"
    await machine_.runs(420, heard=False)
    assert await machine_.ledger() == [(cause, None)]
    assert (await machine_.outages())[0].detail == "marketplace_unreachable"
    await machine_.runs(15)

    assert await machine_.ledger() == [(cause, 615.0)]


async def test_a_machine_that_is_not_enrolled_misses_nobody(store: Database) -> None:
    made = Machine(store)
    await made.starts()
    await made.runs(HOUR, heard=False)

    assert await made.ledger() == []


async def test_a_daemon_that_dies_in_a_silence_ends_it(machine_: Machine) -> None:
    await machine_.runs(60)
    await machine_.runs(600, heard=False)
    await machine_.service.stopped()
    machine_.clock.advance(120)
    await machine_.starts()
    await machine_.runs(60)

    assert await machine_.ledger() == [(Cause.PLATFORM, 600.0), (Cause.DAEMON, 120.0)]


async def test_parts_that_are_down_are_outages(machine_: Machine) -> None:
    bare = Problem("gpu_fallen_off_bus", "cannot")
    lost = Condition(bare, Severity.CRITICAL, "a reboot", "GPU-1")
    await machine_.database.transaction(lambda tx: conditions.replace(tx, "kernel", [lost], START))
    await machine_.database.transaction(lambda tx: machine.put_report(tx, replace(build_report(), engine=None)))
    await machine_.runs(60)
    assert sorted(await machine_.ledger()) == [(Cause.DOCKER, None), (Cause.DRIVER, None)]

    await machine_.database.transaction(lambda tx: conditions.replace(tx, "kernel", [], START))
    await machine_.database.transaction(lambda tx: machine.put_report(tx, build_report()))
    await machine_.runs(60)
    assert sorted(await machine_.ledger()) == [(Cause.DOCKER, 60.0), (Cause.DRIVER, 60.0)]


async def test_the_ledger_says_whether_the_machine_was_rented(machine_: Machine) -> None:
    def rented(tx: object) -> None:
        contracts.upsert(tx, build_contract(51), START)  # type: ignore[arg-type]
        workloads.put(tx, build_status(51, state=WorkloadState.RUNNING))  # type: ignore[arg-type]

    await machine_.database.transaction(rented)
    await machine_.service.stopped()
    machine_.clock.advance(60)
    await machine_.starts()

    assert [one.is_rented for one in await machine_.outages()] == [True]


@pytest.mark.parametrize("code", catalogue())
def test_the_catalogue_names_conditions_that_there_are(code: str) -> None:
    assert book.find(code) is not None


def test_the_catalogue_names_causes() -> None:
    assert catalogue()["engine_unavailable"] is Cause.DOCKER
    assert set(catalogue().values()) == {Cause.DOCKER, Cause.DRIVER}
