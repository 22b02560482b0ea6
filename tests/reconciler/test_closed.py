"""The reconciler under a cordon and in maintenance: nothing new begins, nothing that runs is touched."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from kaalia.contracts.contract import ContractKind
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.model.workload import WorkloadState
from kaalia.store import maintenance
from kaalia.store.changes import Topic
from kaalia.store.maintenance import StoredCordon
from kaalia.units import GB
from tests.reconciler.rig import Rig, contract
from tests.support.clock import START

HOUR = timedelta(hours=1)


async def place(rig: Rig, until_at: object = None) -> Cordon:
    placed = Cordon(rig.clock.now(), until_at)  # type: ignore[arg-type]
    await rig.store.transaction(lambda tx: maintenance.put_cordon(tx, placed), Topic.CONTRACTS)
    return placed


async def stored(rig: Rig) -> StoredCordon | None:
    return await rig.store.read(maintenance.get_cordon)


async def test_a_cordon_outlives_a_restart_and_the_tenant_runs_on(rig: Rig) -> None:
    await rig.put(contract(51))
    await rig.settle()
    await place(rig)
    await rig.put(contract(52))
    await rig.settle()
    await rig.restart()
    await rig.later(hours=2)
    await rig.speak()
    await rig.settle()

    assert await rig.state(51) is WorkloadState.RUNNING
    assert await rig.state(52) is WorkloadState.WAITING
    assert "the owner drains the machine" in (await rig.row(52)).status_msg

    await rig.store.transaction(maintenance.lift_cordon, Topic.CONTRACTS)
    await rig.settle()
    assert await rig.state(52) is WorkloadState.RUNNING


async def test_a_cordon_with_a_date_lifts_by_itself(rig: Rig) -> None:
    await place(rig, START + HOUR / 2)
    await rig.put(contract(51))
    await rig.settle()
    assert await rig.state(51) is WorkloadState.WAITING

    await rig.later(minutes=30)
    assert await rig.state(51) is WorkloadState.RUNNING


async def test_the_owners_job_comes_back_with_its_container(rig: Rig) -> None:
    job = contract(51, kind=ContractKind.DEFAULT_JOB, end_at=None)
    await rig.put(replace(job, spec=replace(job.spec, disk_bytes=GB)))
    await rig.settle()
    container_id = (await rig.row(51)).container_id
    await place(rig)
    await rig.settle()
    assert await rig.state(51) is WorkloadState.STOPPED

    await rig.store.transaction(maintenance.lift_cordon, Topic.CONTRACTS)
    await rig.settle()
    assert await rig.state(51) is WorkloadState.RUNNING
    assert (await rig.row(51)).container_id == container_id


async def test_the_owners_job_goes_on_after_maintenance_with_its_container(rig: Rig) -> None:
    """The marketplace takes its end away when the window is over."""
    job = contract(51, kind=ContractKind.DEFAULT_JOB, end_at=START + HOUR)
    job = replace(job, spec=replace(job.spec, disk_bytes=GB))
    await rig.put(job)
    await rig.settle()
    container_id = (await rig.row(51)).container_id
    await rig.later(minutes=61)
    assert await rig.state(51) is WorkloadState.STOPPED

    await rig.put(replace(job, end_at=None))
    await rig.settle()
    assert await rig.state(51) is WorkloadState.RUNNING
    assert (await rig.row(51)).container_id == container_id


async def test_a_cordon_is_in_force_once_nothing_begun_before_is_unwritten(rig: Rig) -> None:
    placed = await place(rig)
    assert await stored(rig) == StoredCordon(placed, is_obeyed=False)
    await rig.settle()
    assert await stored(rig) == StoredCordon(placed, is_obeyed=True)


async def test_a_launch_on_its_way_is_waited_for_before_the_cordon_is_in_force(rig: Rig) -> None:
    """The launch was begun without the cordon, and asks for the image before it writes anything."""
    gate = asyncio.Event()
    image = rig.runtime.image

    async def slow(reference: str) -> object:
        await gate.wait()
        return await image(reference)

    rig.runtime.image = slow  # type: ignore[method-assign,assignment]
    await rig.put(contract(51))
    await rig.service.reconcile()
    placed = await place(rig)
    await rig.service.reconcile()
    assert await stored(rig) == StoredCordon(placed, is_obeyed=False)

    gate.set()
    await rig.settle()
    assert await stored(rig) == StoredCordon(placed, is_obeyed=True)
    assert await rig.state(51) is WorkloadState.RUNNING


async def test_a_window_refuses_what_overlaps_and_holds_what_was_agreed_before(rig: Rig) -> None:
    now = rig.clock.now()
    window = Window(now - HOUR / 2, now + HOUR / 2, now - HOUR, "power")
    await rig.put(contract(50, start_at=now - 2 * HOUR))
    await rig.settle()
    await rig.store.transaction(lambda tx: maintenance.put_windows(tx, [window]), Topic.CONTRACTS)
    await rig.put(contract(51), contract(52, start_at=now - 2 * HOUR))
    await rig.settle()

    assert await rig.state(50) is WorkloadState.RUNNING
    rejected = await rig.row(51)
    assert rejected.state is WorkloadState.REJECTED
    assert rejected.problem is not None
    assert rejected.problem.code == "maintenance_overlap"
    assert await rig.state(52) is WorkloadState.WAITING

    await rig.later(minutes=30)
    assert await rig.state(52) is WorkloadState.RUNNING
