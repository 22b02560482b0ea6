"""A contract's life, turn by turn."""

from dataclasses import replace
from datetime import timedelta

from kaalia.contracts.contract import Desired
from kaalia.model.workload import WorkloadState
from kaalia.store.claims import ClaimKind
from tests.reconciler.rig import Rig, contract


async def test_a_new_contract_is_launched_with_gpu_ports_and_environment(rig: Rig) -> None:
    await rig.put(contract())

    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.RUNNING
    assert row.status_msg == "success, running docker.io/library/busybox:1.36/args"
    assert [port.requested for port in row.ports] == [8080, 9000]
    placement = rig.runtime.placements[51]
    env = dict(placement.env)
    assert env["VAST_TCP_PORT_8080"] == str(row.ports[0].host_port)
    assert env["VAST_TCP_PORT_9000"] == str(row.ports[1].host_port)
    assert env["PUBLIC_IPADDR"] == "203.0.113.7"
    assert env["MODE"] == "fast"
    assert env["DIRECT_PORT_START"] == "-1"
    assert {claim.kind for claim in await rig.claims()} == {ClaimKind.GPU, ClaimKind.PORT_TCP, ClaimKind.SUBNET}
    assert await rig.told() == ["creating", "running"]
    assert await rig.open_intents() == []


async def test_a_present_image_needs_no_second_list_and_two_transactions(rig: Rig) -> None:
    await rig.settle()
    rig.runtime.calls.clear()
    await rig.put(contract())

    await rig.service.reconcile()
    await rig.idle()

    assert [verb for verb, _ in rig.runtime.calls] == ["image", "create", "start"]


async def test_stop_frees_gpus_and_keeps_ports_and_start_takes_the_same_gpus(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    before = await rig.row()
    container_id = before.container_id

    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()

    stopped = await rig.row()
    assert stopped.state is WorkloadState.STOPPED
    assert {claim.kind for claim in await rig.claims()} == {ClaimKind.PORT_TCP, ClaimKind.SUBNET}

    await rig.put(contract())
    await rig.settle()

    after = await rig.row()
    assert after.state is WorkloadState.RUNNING
    assert (after.container_id, after.ports, after.gpu_uuids) == (container_id, before.ports, before.gpu_uuids)


async def test_destroy_removes_and_gives_everything_back(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()

    await rig.put(contract(desired=Desired.ENDED))
    await rig.settle()

    assert await rig.state() is WorkloadState.ENDED
    assert rig.runtime.containers == {}
    assert rig.runtime.networks == {}
    assert await rig.claims() == set()


async def test_a_reboot_request_restarts_once(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    started_at = (await rig.row()).started_at
    rig.clock.advance(5)

    await rig.put(contract(restart_count=1))
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.RUNNING
    assert row.restarts_done == 1
    assert row.started_at is not None
    assert started_at is not None
    assert row.started_at > started_at
    assert rig.runtime.count("stop") == 1


async def test_a_newer_generation_replaces_the_container_on_the_same_ports(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    before = await rig.row()

    newer = contract(generation=2)
    await rig.put(replace(newer, spec=replace(newer.spec, args=("sleep", "5"))))
    await rig.settle()

    after = await rig.row()
    assert (after.generation, after.state) == (2, WorkloadState.RUNNING)
    assert after.container_id != before.container_id
    assert after.ports == before.ports
    assert after.gpu_uuids == before.gpu_uuids


async def test_an_expired_contract_is_stopped_and_does_not_start(rig: Rig) -> None:
    end_at = rig.clock.now() + timedelta(hours=2)
    await rig.put(contract(end_at=end_at))
    await rig.settle()

    await rig.later(hours=2)

    row = await rig.row()
    assert row.state is WorkloadState.STOPPED
    assert "ended at" in row.status_msg
    assert 51 in rig.runtime.containers

    await rig.put(contract(end_at=end_at, restart_count=3))
    await rig.settle()

    assert await rig.state() is WorkloadState.STOPPED

    await rig.put(contract(end_at=end_at + timedelta(days=1)))
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING


async def test_a_third_contract_waits_until_a_gpu_is_free(rig: Rig) -> None:
    await rig.put(contract(51), contract(52), contract(53))
    await rig.settle()

    waiting = await rig.row(53)
    assert waiting.state is WorkloadState.WAITING
    assert waiting.status_msg == "scheduling: waits for 1 GPUs, 0 of 2 are free"

    await rig.put(contract(51, desired=Desired.STOPPED))
    await rig.settle()

    assert await rig.state(53) is WorkloadState.RUNNING

    await rig.put(contract(51))
    await rig.settle()

    again = await rig.row(51)
    assert again.state is WorkloadState.STOPPED
    assert again.status_msg.startswith("scheduling: waits for GPU-")


async def test_below_the_price_floor_is_rejected_for_good(rig: Rig) -> None:
    await rig.put(replace(contract(), price_usd_per_hour=contract().price_usd_per_hour / 2))
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.REJECTED
    assert row.problem is not None
    assert row.problem.code == "price_below_floor"
    assert rig.runtime.count("create") == 0


async def test_nothing_new_is_admitted_after_the_last_word_is_too_old(rig: Rig) -> None:
    await rig.put(contract(51))
    await rig.settle()

    rig.clock.advance(2 * 3600)
    await rig.put(contract(52))
    await rig.settle()

    assert await rig.state(51) is WorkloadState.RUNNING
    assert await rig.state(52) is WorkloadState.WAITING

    await rig.speak()
    await rig.settle()

    assert await rig.state(52) is WorkloadState.RUNNING


async def test_a_process_that_ends_stays_ended_until_asked(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()

    rig.runtime.exit(51, 0)
    await rig.later(seconds=60)

    row = await rig.row()
    assert (row.state, row.exit_code) == (WorkloadState.EXITED, 0)
    assert rig.runtime.count("start") == 1

    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    await rig.put(contract())
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
