"""A stop that the engine still carries out when the daemon that asked for it is gone."""

import asyncio

from kaalia.contracts.contract import Desired
from kaalia.model.workload import WorkloadState
from tests.reconciler.rig import Rig, contract


async def test_a_stop_that_outlives_the_daemon_is_not_taken_for_the_workloads_own_end(rig: Rig) -> None:
    """The renter stops, the daemon dies while the engine waits for the process, and the renter starts again."""
    await rig.put(contract())
    await rig.settle()
    rig.runtime.faults.stop_gate = asyncio.Event()
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.service.reconcile()
    await rig.until(lambda: _is_stopping(rig))
    await rig.restart()
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.until(lambda: _has_looked(rig))
    rig.runtime.finish_stops()

    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert rig.runtime.running().keys() == {51}
    assert await rig.open_intents() == []


async def _is_stopping(rig: Rig) -> bool:
    return rig.runtime.count("stop") == 1


async def _has_looked(rig: Rig) -> bool:
    """The new daemon has asked for the end of it as well, or has written down that it runs."""
    return rig.runtime.count("stop") == 2 or await rig.state() is WorkloadState.RUNNING
