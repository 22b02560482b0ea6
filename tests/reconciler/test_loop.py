"""The loop as it runs: woken by the bell, by events and by time, and let go of without touching anyone."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kaalia.contracts.contract import Desired
from kaalia.model.workload import WorkloadState
from tests.reconciler.rig import Rig, contract


@pytest_asyncio.fixture
async def running(rig: Rig) -> AsyncIterator[Rig]:
    """The rig's service, running by itself."""
    task = asyncio.create_task(rig.service.run())
    await rig.until(lambda: _listens(rig))
    yield rig
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _listens(rig: Rig) -> bool:
    return rig.runtime.count("events") > 0


async def test_the_bell_launches_within_milliseconds(running: Rig) -> None:
    began_s = time.perf_counter()
    await running.put(contract())
    while running.runtime.count("create") == 0:
        await asyncio.sleep(0)
    took_s = time.perf_counter() - began_s

    await running.until(lambda: running.is_in(WorkloadState.RUNNING))

    assert took_s < 0.25
    assert running.runtime.count("start") == 1


async def test_an_event_is_enough_to_notice_an_exit(running: Rig) -> None:
    await running.put(contract())
    await running.until(lambda: running.is_in(WorkloadState.RUNNING))

    running.runtime.exit(51, 7)
    await running.until(lambda: running.is_in(WorkloadState.EXITED))

    assert (await running.row()).exit_code == 7


@pytest.mark.parametrize("exit_code", [0, 137])
async def test_what_a_short_restart_of_the_engine_ended_is_started_again(running: Rig, exit_code: int) -> None:
    await running.put(contract())
    await running.until(lambda: running.is_in(WorkloadState.RUNNING))
    running.clock.advance(100)

    running.runtime.restart(exit_code=exit_code)

    await running.until(lambda: _runs_anew(running))
    assert running.runtime.count("start") == 2


async def _runs_anew(rig: Rig) -> bool:
    return bool(rig.runtime.running()) and await rig.is_in(WorkloadState.RUNNING)


async def test_a_quiet_machine_makes_no_calls(running: Rig) -> None:
    await running.put(contract())
    await running.until(lambda: running.is_in(WorkloadState.RUNNING))
    await asyncio.sleep(0.1)
    calls = len(running.runtime.calls)

    await asyncio.sleep(0.3)

    assert len(running.runtime.calls) == calls


async def test_cancelling_the_service_stops_nobody(rig: Rig) -> None:
    task = asyncio.create_task(rig.service.run())
    await rig.put(contract())
    await rig.until(lambda: rig.is_in(WorkloadState.RUNNING))
    rig.runtime.images.clear()
    rig.runtime.faults.pull_gate = asyncio.Event()
    await rig.put(contract(52))
    await rig.until(lambda: rig.is_in(WorkloadState.PULLING, 52))

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert set(rig.runtime.running()) == {51}
    assert await rig.open_intents() == ["pull"]
    assert rig.runtime.count("stop") == rig.runtime.count("remove") == 0


async def test_different_contracts_do_not_wait_for_each_other(running: Rig) -> None:
    images = dict(running.runtime.images)
    running.runtime.images.clear()
    running.runtime.faults.pull_gate = asyncio.Event()
    await running.put(contract(51))
    await running.until(lambda: running.is_in(WorkloadState.PULLING, 51))
    running.runtime.images.update(images)

    await running.put(contract(52))
    await running.until(lambda: running.is_in(WorkloadState.RUNNING, 52))
    await running.put(contract(52), contract(51, desired=Desired.ENDED))
    await running.until(lambda: running.is_in(WorkloadState.ENDED, 51))
