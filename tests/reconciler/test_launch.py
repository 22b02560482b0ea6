"""Pulls, ports, and what to do when they do not work."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts.contract import Contract, Desired
from kaalia.errors import WorkloadError
from kaalia.model.workload import PortRequest, Protocol, WorkloadState
from kaalia.reconciler.retries import RETRY_S
from kaalia.runtime.base import RegistryLogin
from tests.reconciler.rig import IMAGE, Rig, contract
from tests.support.builders import build_report

ALARMING = ("error", "failed", "failure", "exception", "traceback", "oci runtime", "permission denied")
LIMITED = WorkloadError("registry_rate_limited", "cannot pull: the registry refuses more pulls for now")


async def test_a_pull_tells_its_progress_and_claims_the_gpus_first(rig: Rig) -> None:
    rig.runtime.images.clear()
    rig.runtime.faults.pull_gate = asyncio.Event()
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.until(lambda: rig.is_in(WorkloadState.PULLING))

    assert {claim.kind for claim in await rig.claims()} == {"gpu"}
    assert await rig.open_intents() == ["pull"]

    rig.clock.advance(2)
    rig.runtime.faults.pull_gate.set()
    await rig.settle()

    assert await rig.told() == ["pulling", "creating", "running"]
    words = await rig.words()
    assert any(line.startswith("unpacking") for line in words)
    assert not [line for line in words if any(word in line.lower() for word in ALARMING)]


async def test_a_stop_or_destroy_cancels_the_pull(rig: Rig) -> None:
    rig.runtime.images.clear()
    rig.runtime.faults.pull_gate = asyncio.Event()
    for wish, end in ((Desired.STOPPED, WorkloadState.STOPPED), (Desired.ENDED, WorkloadState.ENDED)):
        await rig.put(contract())
        await rig.service.reconcile()
        await rig.until(lambda: rig.is_in(WorkloadState.PULLING))
        await rig.put(contract(desired=wish))

        await rig.settle()

        assert await rig.state() is end
        assert await rig.claims() == set()
        assert await rig.open_intents() == []
    assert rig.runtime.count("create") == 0


async def test_a_login_is_fetched_only_when_needed_and_right_before_the_pull(rig: Rig) -> None:
    rig.runtime.images.clear()
    rig.login = RegistryLogin("docker.io", "ada", "hush-hush")
    made = contract()
    await rig.put(replace(made, spec=replace(made.spec, needs_registry_login=True)))

    await rig.settle()

    assert rig.runtime.logins == [rig.login]
    assert await rig.state() is WorkloadState.RUNNING


DENIED = WorkloadError("registry_unauthorized", "cannot pull: the registry refuses access")


def with_login(made: Contract) -> Contract:
    return replace(made, spec=replace(made.spec, needs_registry_login=True))


async def test_a_login_is_checked_by_the_registry_though_the_image_is_here(rig: Rig) -> None:
    rig.login = RegistryLogin("docker.io", "ada", "wrong")
    rig.runtime.faults.refuse_pulls = [DENIED]
    await rig.put(with_login(contract()))

    await rig.settle()

    assert rig.runtime.logins == [rig.login]
    assert await rig.state() is WorkloadState.FAILED


@pytest.mark.parametrize("name", [IMAGE, "other/name:1"], ids=["same name", "other name of the same image"])
async def test_an_image_that_came_by_a_login_is_not_given_to_others(rig: Rig, name: str) -> None:
    rig.login = RegistryLogin("docker.io", "ada", "hush-hush")
    rig.runtime.images[name] = rig.runtime.images[IMAGE]
    await rig.put(with_login(contract()))
    await rig.settle()
    await rig.restart()
    rig.runtime.faults.refuse_pulls = [DENIED]

    other = contract(52)
    await rig.put(replace(other, spec=replace(other.spec, image=name)))
    await rig.settle()

    refused = await rig.row(52)
    assert refused.problem == DENIED.problem
    assert await rig.state(51) is WorkloadState.RUNNING


async def test_a_crash_after_the_pull_does_not_make_a_private_image_public(rig: Rig) -> None:
    rig.login = RegistryLogin("docker.io", "ada", "hush-hush")
    rig.crash_at = "pull.done"
    await rig.put(with_login(contract()))
    await rig.service.reconcile()
    await rig.idle()
    await rig.put(replace(with_login(contract()), desired=Desired.ENDED))
    await rig.restart()
    await rig.settle()
    rig.runtime.faults.refuse_pulls = [DENIED]

    await rig.put(contract(52))
    await rig.settle()

    assert (await rig.row(52)).problem == DENIED.problem


async def test_an_image_that_the_registry_gives_to_anyone_is_asked_for_once(rig: Rig) -> None:
    rig.login = RegistryLogin("docker.io", "ada", "hush-hush")
    await rig.put(with_login(contract()))
    await rig.settle()
    for number in (52, 53):
        await rig.put(contract(number - 1, desired=Desired.ENDED), contract(number))
        await rig.settle()

    assert await rig.state(53) is WorkloadState.RUNNING
    assert rig.runtime.logins == [rig.login, None]


async def test_a_busy_registry_is_asked_again_and_then_given_up(rig: Rig) -> None:
    rig.runtime.images.clear()
    rig.runtime.faults.refuse_pulls = [LIMITED] * 99
    await rig.put(contract())
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.PULLING
    assert row.status_msg == f"loading {IMAGE}: next attempt in 5 s"
    for wait_s in RETRY_S:
        assert await rig.state() is WorkloadState.PULLING
        await rig.later(seconds=wait_s)

    failed = await rig.row()
    assert failed.state is WorkloadState.FAILED
    assert failed.problem == LIMITED.problem
    assert rig.runtime.count("pull") == 1 + len(RETRY_S)
    assert await rig.claims() == set()


async def test_a_busy_registry_that_gives_way_runs(rig: Rig) -> None:
    rig.runtime.images.clear()
    rig.runtime.faults.refuse_pulls = [LIMITED, LIMITED]
    await rig.put(contract())
    await rig.settle()
    await rig.later(seconds=5)
    await rig.later(seconds=15)

    assert await rig.state() is WorkloadState.RUNNING


async def test_an_image_that_does_not_exist_fails_at_once_and_a_reboot_tries_again(rig: Rig) -> None:
    facts = rig.runtime.images[IMAGE]
    rig.runtime.images.clear()
    rig.runtime.registry.clear()
    await rig.put(contract())
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.FAILED
    assert row.problem is not None
    assert row.problem.code == "image_not_found"
    assert rig.runtime.count("pull") == 1

    rig.runtime.add_image(IMAGE, facts)
    await rig.later(hours=1)
    assert await rig.state() is WorkloadState.FAILED
    await rig.put(contract(restart_count=1))
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING


async def test_a_port_that_a_probe_finds_busy_is_not_given(rig: Rig) -> None:
    rig.foreign_ports = set(range(40000, 40790))
    await rig.put(contract())

    await rig.settle()

    assert {port.host_port for port in (await rig.row()).ports} <= set(range(40790, 40800))


async def test_a_port_that_is_taken_at_the_start_is_replaced(rig: Rig) -> None:
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.idle()
    first = {port.host_port for port in (await rig.row()).ports}
    await rig.put(contract(desired=Desired.ENDED))
    await rig.settle()
    await rig.restart()
    rig.runtime.faults.foreign_ports = first

    await rig.put(contract(generation=2))
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.RUNNING
    assert not {port.host_port for port in row.ports} & first


async def test_a_range_that_is_foreign_altogether_fails_after_three_places(rig: Rig) -> None:
    rig.runtime.faults.foreign_ports = set(range(40000, 40800))
    await rig.put(contract())
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.FAILED
    assert row.problem is not None
    assert row.problem.code == "port_taken"
    assert rig.runtime.count("create") == 3
    assert rig.runtime.containers == {}
    assert await rig.claims() == set()


async def test_a_network_of_this_name_that_is_anothers_means_another_subnet(rig: Rig) -> None:
    """As two daemons on one engine have it, whose pools are the same."""
    rig.runtime.faults.foreign_networks = {"10.214.0.0/28", "10.214.0.16/28"}
    await rig.put(contract())
    await rig.settle()

    assert (await rig.row()).state is WorkloadState.RUNNING
    assert rig.runtime.networks == {51: "10.214.0.32/28"}
    assert {claim.key for claim in await rig.claims() if claim.kind == "subnet"} == {"10.214.0.32/28"}


async def test_a_subnet_that_is_taken_is_replaced(rig: Rig) -> None:
    rig.runtime.networks[0] = "10.214.0.0/28"
    await rig.put(contract())
    await rig.settle()

    assert rig.runtime.networks[51] == "10.214.0.16/28"


async def test_identity_ports_are_the_same_inside_and_outside(rig: Rig) -> None:
    made = contract()
    wanted = (PortRequest(70000), PortRequest(70001, Protocol.UDP))
    await rig.put(replace(made, spec=replace(made.spec, ports=wanted)))
    await rig.settle()

    tcp, udp = (await rig.row()).ports[:2]
    assert tcp.container_port == tcp.host_port
    assert udp.container_port == udp.host_port
    env = dict(rig.runtime.placements[51].env)
    assert env["VAST_TCP_PORT_70000"] == str(tcp.host_port)
    assert env["VAST_UDP_PORT_70001"] == str(udp.host_port)


async def test_a_first_start_that_does_not_work_leaves_nothing(rig: Rig) -> None:
    rig.runtime.faults.refuse_start = WorkloadError("gpu_hook_failed", "cannot start C.51: no GPUs", evidence="nvml")
    await rig.put(contract())
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.FAILED
    assert row.problem is not None
    assert (row.problem.code, row.problem.evidence) == ("gpu_hook_failed", "nvml")
    assert rig.runtime.containers == {}
    assert await rig.claims() == set()
    assert await rig.open_intents() == []


async def test_a_first_start_after_a_crash_that_does_not_work_leaves_nothing_either(rig: Rig) -> None:
    rig.crash_at = "create.done"
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.idle()
    await rig.restart()
    rig.runtime.faults.refuse_start = WorkloadError("gpu_hook_failed", "cannot start C.51: no GPUs")

    await rig.settle()

    assert await rig.state() is WorkloadState.FAILED
    assert rig.runtime.containers == {}
    assert await rig.claims() == set()


async def test_a_later_start_that_does_not_work_keeps_the_data(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    rig.runtime.faults.refuse_start = WorkloadError("gpu_hook_failed", "cannot start C.51: no GPUs")
    await rig.put(contract())
    await rig.settle()

    assert await rig.state() is WorkloadState.FAILED
    assert 51 in rig.runtime.containers
    assert {claim.kind for claim in await rig.claims()} == {"port/tcp", "subnet"}

    rig.runtime.faults.refuse_start = None
    await rig.put(contract(restart_count=1))
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING


async def test_a_process_that_ends_at_once_is_exited(rig: Rig) -> None:
    rig.runtime.faults.exit_at_start = 3
    await rig.put(contract())
    await rig.settle()
    await rig.later(seconds=60)

    row = await rig.row()
    assert (row.state, row.exit_code) == (WorkloadState.EXITED, 3)
    assert rig.runtime.count("start") == 1


async def test_sixteen_launches_at_once_get_ports_and_subnets_of_their_own(rig: Rig) -> None:
    await rig.prepare(build_report(rig.clock.now(), gpus=16))
    many = [contract(number, end_at=rig.clock.now() + timedelta(days=1)) for number in range(100, 116)]
    await rig.put(*(replace(one, spec=replace(one.spec, disk_bytes=1)) for one in many))

    await rig.settle()

    assert len(rig.runtime.running()) == 16
    held = [(p.host_port, p.protocol) for one in rig.runtime.running().values() for p in one.ports]
    assert len(held) == len(set(held)) == 32
    assert len(set(rig.runtime.networks.values())) == 16
