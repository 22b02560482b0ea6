"""A start that a crash left unrecorded did the reboots that were asked before it, and none that were asked since."""

import asyncio

import pytest

from kaalia.contracts.contract import Desired
from kaalia.model.workload import WorkloadState
from tests.reconciler.rig import Rig, contract
from tests.reconciler.test_recovery import crash_during


@pytest.mark.parametrize("jump_s", [0, -3600])
async def test_a_crash_in_a_reboot_reboots_once_whatever_the_clock_does(rig: Rig, jump_s: float) -> None:
    await rig.put(contract())
    await rig.settle()
    rig.clock.advance(5)
    rig.clock.jump(jump_s)
    await rig.put(contract(restart_count=1))
    await crash_during(rig, "start.done")

    await rig.settle()

    assert rig.runtime.count("start") == 2
    assert (await rig.row()).restarts_done == 1


async def test_a_reboot_asked_after_a_start_that_nobody_recorded_is_done(rig: Rig) -> None:
    await rig.put(contract())
    await crash_during(rig, "start.done")
    before = rig.runtime.containers[51].started_at
    await rig.put(contract(restart_count=1))

    await rig.settle()

    row = await rig.row()
    assert (row.state, row.restarts_done) == (WorkloadState.RUNNING, 1)
    assert (rig.runtime.count("stop"), rig.runtime.count("start")) == (1, 2)
    assert rig.runtime.containers[51].started_at != before
    assert await rig.open_intents() == []


@pytest.mark.parametrize("point", ["create.done", "start.intended"])
async def test_a_reboot_asked_while_a_dead_daemons_start_is_at_the_engine_is_done(rig: Rig, point: str) -> None:
    await rig.put(contract())
    if point == "start.intended":
        await rig.settle()
        await rig.put(contract(desired=Desired.STOPPED))
        await rig.settle()
        await rig.put(contract())
    await crash_during(rig, point)
    await rig.put(contract(restart_count=1))
    rig.runtime.faults.starts_late = True
    starts, stops = rig.runtime.count("start"), rig.runtime.count("stop")

    await rig.settle()

    row = await rig.row()
    assert (row.state, row.restarts_done) == (WorkloadState.RUNNING, 1)
    assert (rig.runtime.count("stop") - stops, rig.runtime.count("start") - starts) == (1, 2)


async def test_so_is_one_that_a_second_dead_daemon_took_for_done(rig: Rig) -> None:
    await rig.put(contract())
    await crash_during(rig, "create.done")
    await rig.put(contract(restart_count=1))
    rig.runtime.faults.starts_late = True
    await crash_during(rig, "start.done")

    await rig.settle()

    assert (await rig.row()).restarts_done == 1
    assert (rig.runtime.count("stop"), rig.runtime.count("start")) == (1, 2)


async def test_a_reboot_that_a_dead_daemon_had_begun_is_not_done_twice(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(restart_count=1))
    await crash_during(rig, "stop.done")
    rig.runtime.faults.starts_late = True

    await rig.settle()

    assert (await rig.row()).restarts_done == 1
    assert (rig.runtime.count("stop"), rig.runtime.count("start")) == (1, 2)


async def test_of_two_reboots_the_one_that_a_crash_left_unrecorded_is_credited(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(restart_count=1))
    await crash_during(rig, "start.done")
    await rig.put(contract(restart_count=3))

    await rig.settle()

    assert (await rig.row()).restarts_done == 3
    assert rig.runtime.count("start") == 3


async def test_a_reboot_asked_before_the_start_needs_no_other(rig: Rig) -> None:
    await rig.put(contract(restart_count=2))
    await crash_during(rig, "start.done")

    await rig.settle()

    assert (await rig.row()).restarts_done == 2
    assert (rig.runtime.count("stop"), rig.runtime.count("start")) == (0, 1)


async def test_an_unrecorded_start_that_was_stopped_is_started_again(rig: Rig) -> None:
    await rig.put(contract())
    await crash_during(rig, "start.done")
    await rig.put(contract(desired=Desired.STOPPED))
    await crash_during(rig, "stop.done")
    await rig.put(contract())
    await crash_during(rig, "start.intended")

    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert rig.runtime.count("start") == 2


async def test_a_start_that_ended_by_itself_unrecorded_is_not_repeated(rig: Rig) -> None:
    await rig.put(contract())
    await crash_during(rig, "start.done")
    rig.runtime.exit(51, 0)

    await rig.settle()

    assert await rig.state() is WorkloadState.EXITED
    assert rig.runtime.count("start") == 1


async def test_a_reboot_asked_while_the_workload_stops_is_done_with_the_one_before(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(restart_count=1))
    rig.runtime.faults.stop_gate = asyncio.Event()
    await rig.service.reconcile()
    await rig.until(lambda: _stops(rig))
    await rig.put(contract(restart_count=2))
    rig.runtime.faults.stop_gate.set()

    await rig.settle()

    assert (await rig.row()).restarts_done == 2
    assert (rig.runtime.count("stop"), rig.runtime.count("start")) == (1, 2)


async def _stops(rig: Rig) -> bool:
    return rig.runtime.count("stop") == 1
