"""The time of contracts outlives the daemon and the boot, and those who wait for it are woken when it moves."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.contracts import lease
from kaalia.daemon.timekeeper import RECORD_S, Timekeeper
from kaalia.store import anchor
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from tests.support.clock import START, FakeClock

HOUR_S = 3600.0


@dataclass
class Machine:
    database: Database
    changes: Changes
    clock: FakeClock = field(default_factory=FakeClock)

    async def daemon(self) -> Timekeeper:
        """A new process."""
        keeper = Timekeeper(self.database, self.changes, self.clock)
        await keeper.open()
        return keeper


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    changes = Changes()
    database = Database(tmp_path / "state.db", changes)
    await database.open()
    yield Machine(database, changes)
    await database.close()


async def test_a_jump_while_the_daemon_is_away_moves_nothing(machine: Machine) -> None:
    await machine.daemon()
    machine.clock.advance(600)
    machine.clock.jump(9 * HOUR_S)
    keeper = await machine.daemon()

    assert keeper.lease_time() == lease.certain(START + timedelta(seconds=600))
    found = keeper.problem()
    assert found is not None
    assert found.code == "clock_jumped"
    assert "32400 s ahead" in found.message


async def test_a_reboot_with_a_clock_that_went_back_is_a_doubt_until_the_marketplace_speaks(machine: Machine) -> None:
    await machine.daemon()
    machine.clock.reboot(60, wall_error_s=-9 * HOUR_S)
    keeper = await machine.daemon()
    bell = machine.changes.subscribe(Topic.TIME)

    assert not keeper.lease_time().is_certain
    assert keeper.now() == START + timedelta(seconds=5), "what was recorded, and the age of this boot"

    await keeper.hear(START + timedelta(seconds=65))

    assert keeper.lease_time() == lease.certain(START + timedelta(seconds=65))
    assert bell.is_set()


async def test_when_the_marketplace_was_heard_is_told(machine: Machine) -> None:
    keeper = await machine.daemon()
    assert keeper.heard_at() is None

    machine.clock.advance(30)
    await keeper.hear(START + timedelta(seconds=31))

    assert keeper.heard_at() == START + timedelta(seconds=30), "by this machine's clock"


async def test_a_suspended_machine_rings_when_it_is_back(machine: Machine) -> None:
    keeper = await machine.daemon()
    bell = machine.changes.subscribe(Topic.TIME)
    machine.clock.advance(10)
    await keeper.look()
    assert not bell.is_set()

    machine.clock.suspend(HOUR_S)
    await keeper.look()

    assert bell.is_set()
    assert keeper.now() == START + timedelta(seconds=HOUR_S + 10)


async def test_what_passes_is_recorded_each_minute_and_not_more_often(machine: Machine) -> None:
    keeper = await machine.daemon()
    machine.clock.advance(RECORD_S - 1)
    await keeper.look()
    before = await machine.database.read(anchor.get)
    machine.clock.advance(1)
    await keeper.look()
    after = await machine.database.read(anchor.get)

    assert before is not None
    assert after is not None
    assert (before.seen_s, after.seen_s) == (1000.0, 1000.0 + RECORD_S)


async def test_clocks_that_agree_are_no_problem(machine: Machine) -> None:
    keeper = await machine.daemon()
    machine.clock.advance(HOUR_S)

    assert keeper.problem() is None
