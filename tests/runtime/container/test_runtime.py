"""The whole life of a container through ContainerRuntime, on a real Docker Engine."""

import asyncio
import os
import socket
from dataclasses import replace

import pytest

from kaalia.errors import WorkloadError
from kaalia.host import system
from kaalia.model.workload import LaunchMode, PortBinding, Protocol
from kaalia.runtime.base import Found, ObservedState, Present, Started
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from kaalia.units import MIB
from tests.support import btrfs
from tests.support.containers import address_of, answered, ask_tcp, ask_udp, output, refused
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.placements import MACHINE, build_placement, build_ports, build_spec

pytestmark = pytest.mark.docker


async def test_life_without_ports(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    placement = build_placement(51)

    container_id = await runtime.create(placement)
    created = await runtime.inspect(51)
    running = (await runtime.start(51)).observed
    again = await runtime.start(51)

    assert created is not None
    assert (created.state, created.container_id, created.generation) == (ObservedState.CREATED, container_id, 1)
    assert (running.state, running.contract_id, running.name) == (ObservedState.RUNNING, 51, "C.51")
    assert running.pid
    assert running.started_at
    assert running.exit_code is None
    assert running.end_at == placement.contract.end_at
    assert again == Started(running, was_running=True)

    await runtime.stop(51, 0)
    await runtime.stop(51, 0)
    stopped = await runtime.inspect(51)

    assert stopped is not None
    assert (stopped.state, stopped.exit_code, stopped.pid) == (ObservedState.EXITED, 137, None)
    assert stopped.finished_at is not None

    assert (await runtime.start(51)).observed.state is ObservedState.RUNNING
    await runtime.remove(51)
    await runtime.remove(51)

    assert await runtime.inspect(51) is None
    assert not docker_host.has_container("C.51")
    assert "kaalia-51" not in {network["Name"] for network in docker_host.request("GET", "/networks")}


async def test_twenty_ports_answer(runtime: ContainerRuntime) -> None:
    ports = build_ports(43000, tcp=12, udp=8)
    words = [f"{port.container_port}/{port.protocol}" if port.protocol is Protocol.UDP else str(port.container_port)
             for port in ports]  # fmt: skip
    await runtime.create(build_placement(52, spec=build_spec(args=("serve", *words)), ports=ports))

    running = (await runtime.start(52)).observed

    assert running.ports == ports
    for port in ports[:12]:
        assert await answered(ask_tcp, port.host_port) == f"served on {port.container_port}\n"
    for port in ports[12:]:
        assert await answered(ask_udp, port.host_port) == b"ping"


async def test_environment_hostname_and_limits_arrive(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    script = "echo $MODE; hostname; ulimit -n; cat /proc/self/status; df -k /dev/shm; echo end"
    spec = build_spec(args=("sh", "-c", script), hostname="node1", env=(("MODE", "fast=yes and $HOME"),))
    await runtime.create(build_placement(53, spec=spec))
    await runtime.start(53)

    lines = (await output(runtime, 53, "end\n")).splitlines()

    host = docker_host.inspect("C.53")["HostConfig"]
    assert lines[:2] == ["fast=yes and $HOME", "node1"]
    assert int(lines[2]) >= 20_000
    assert "NoNewPrivs:\t1" in lines
    assert "Seccomp:\t2" in lines
    assert any("16384" in line and "/dev/shm" in line for line in lines)
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (128 * MIB, 128 * MIB, 64)
    assert (host["CpuShares"], host["CpuQuota"]) == (512, 100_000)
    assert host["CapDrop"] == ["ALL"]
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}


async def test_memory_limit_kills_the_greedy(runtime: ContainerRuntime) -> None:
    spec = build_spec(args=("sh", "-c", "x=a; while :; do x=$x$x; done"))
    await runtime.create(build_placement(54, spec=spec))
    await runtime.start(54)

    seen = await runtime.inspect(54)
    for _ in range(200):
        if seen is not None and seen.state is ObservedState.EXITED:
            break
        await asyncio.sleep(0.05)
        seen = await runtime.inspect(54)

    assert seen is not None
    assert (seen.oom_killed, seen.exit_code) == (True, 137)


async def test_disk_quota_is_real(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    if not docker_host.enforces_disk_size:
        pytest.skip("no btrfs here")
    script = "dd if=/dev/zero of=/fits bs=1M count=60 && sync && dd if=/dev/zero of=/too-much bs=1M count=60; echo end"
    await runtime.create(build_placement(55, spec=build_spec(args=("sh", "-c", script), disk_bytes=100 * MIB)))
    await runtime.start(55)

    text = await output(runtime, 55, "end\n")

    assert "60+0 records out" in text
    assert "Disk quota exceeded" in text or "No space left" in text


async def test_disk_quota_is_real_after_many_removals(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    if not docker_host.enforces_disk_size:
        pytest.skip("no btrfs here")
    script = "dd if=/dev/zero of=/some bs=1M count=20; echo end; sleep 100"
    for contract_id in range(200, 210):
        spec = build_spec(args=("sh", "-c", script), disk_bytes=100 * MIB)
        await runtime.create(build_placement(contract_id, spec=spec))
        await runtime.start(contract_id)
        await output(runtime, contract_id, "end\n")
        await runtime.remove(contract_id)
    # What the kernel may do to the counts when a removed container is cleared away.
    await asyncio.to_thread(btrfs.spoil_counts, docker_host.data_root)
    await asyncio.to_thread(btrfs.clear_away, docker_host.data_root)
    assert btrfs.is_inconsistent(docker_host.data_root)

    script = "dd if=/dev/zero of=/too-much bs=1M count=120; echo end"
    await runtime.create(build_placement(210, spec=build_spec(args=("sh", "-c", script), disk_bytes=100 * MIB)))
    await runtime.start(210)

    text = await output(runtime, 210, "end\n")
    assert "Disk quota exceeded" in text or "No space left" in text


async def test_onstart_runs_at_each_start_and_stop_is_prompt(runtime: ContainerRuntime) -> None:
    onstart = "cat /root/.vast_containerlabel\necho boot >> /root/boots\ncat /root/boots\necho end"
    spec = build_spec(launch_mode=LaunchMode.SSH, onstart=onstart, args=())
    await runtime.create(build_placement(59, spec=spec))

    await runtime.start(59)
    await output(runtime, 59, "end\n")
    began = asyncio.get_running_loop().time()
    await runtime.stop(59, 20)
    took_s = asyncio.get_running_loop().time() - began
    seen = await runtime.inspect(59)
    await runtime.start(59)
    text = await output(runtime, 59, "boot\nboot\nend\n")

    assert took_s < 5
    assert seen is not None
    assert seen.exit_code == 0
    assert text == "C.59\nboot\nend\nC.59\nboot\nboot\nend\n"


async def test_equal_container_is_adopted_after_a_restart_of_the_daemon(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    placement = build_placement(60, ports=build_ports(43100, tcp=1))
    first = await runtime.create(placement)
    before = (await runtime.start(60)).observed

    engine = DockerEngine(docker_host.socket)
    restarted = ContainerRuntime(engine, MACHINE, sandboxes=Sandboxes(engine, MACHINE))
    second = await restarted.create(placement)
    seen = await restarted.observe()
    await restarted.close()
    engine.close()

    assert second == first
    assert seen == Found((before,))


async def test_newer_generation_replaces_and_an_older_one_is_refused(runtime: ContainerRuntime) -> None:
    first = await runtime.create(build_placement(61))
    await runtime.start(61)

    second = await runtime.create(build_placement(61, generation=2, spec=build_spec(args=("sleep", "9"))))
    error = await refused(runtime.create(build_placement(61, generation=1)))

    seen = await runtime.inspect(61)
    assert second != first
    assert seen is not None
    assert (seen.container_id, seen.generation) == (second, 2)
    assert error.code == "generation_stale"


async def test_changed_grants_replace_only_what_never_ran(runtime: ContainerRuntime) -> None:
    old, new = (
        build_placement(62, ports=build_ports(43110, tcp=1)),
        build_placement(62, ports=build_ports(43111, tcp=1)),
    )
    first = await runtime.create(old)
    second = await runtime.create(new)
    await runtime.start(62)

    error = await refused(runtime.create(old))

    seen = await runtime.inspect(62)
    assert first != second
    assert error.code == "grants_changed"
    assert seen is not None
    assert (seen.container_id, seen.state) == (second, ObservedState.RUNNING)


@pytest.mark.parametrize(
    "labels", [{}, {"io.kaalia.machine": "77@8899aabbccddeeff", "io.kaalia.contract": "63", "io.kaalia.schema": "1"}]
)
async def test_foreign_container_is_never_touched(
    runtime: ContainerRuntime, docker_host: PrivateDocker, labels: dict[str, str]
) -> None:
    body = {"Image": DEMO_IMAGE, "Cmd": ["sleep", "1000"], "Labels": labels}
    docker_host.request("POST", "/containers/create?name=C.63", body)
    docker_host.request("POST", "/containers/C.63/start")
    before = docker_host.inspect("C.63")

    error = await refused(runtime.create(build_placement(63)))
    assert error.code == "name_taken"
    assert (await refused(runtime.start(63))).code == "not_found"
    assert (await refused(runtime.logs(63, 1))).code == "not_found"
    await runtime.stop(63, 0)
    await runtime.remove(63)

    assert await runtime.inspect(63) is None
    assert await runtime.observe() == Found()
    assert docker_host.inspect("C.63")["State"] == before["State"]
    assert "kaalia-63" not in {network["Name"] for network in docker_host.request("GET", "/networks")}


async def test_foreign_network_is_never_touched(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    docker_host.request("POST", "/networks/create", {"Name": "kaalia-net-172.28.64.0"})

    error = await refused(runtime.create(build_placement(64)))
    await runtime.remove(64)

    assert error.code == "network_exists"
    assert "kaalia-net-172.28.64.0" in {network["Name"] for network in docker_host.request("GET", "/networks")}


async def test_network_with_another_subnet_is_replaced(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    await runtime.create(build_placement(65, subnet="172.28.65.0/29"))
    await runtime.create(build_placement(65, subnet="172.28.66.0/29"))

    running = (await runtime.start(65)).observed

    assert running.state is ObservedState.RUNNING
    assert address_of(docker_host, "C.65") == "172.28.66.2"


async def test_taken_port_is_named_and_another_one_can_be_given(runtime: ContainerRuntime) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 43120))
        other.listen()
        await runtime.create(build_placement(66, ports=build_ports(43120, tcp=1)))
        error = await refused(runtime.start(66))

    assert error.code == "port_taken"
    await runtime.create(build_placement(66, ports=build_ports(43121, tcp=1)))
    assert (await runtime.start(66)).observed.ports[0].host_port == 43121


async def test_identity_port_has_the_same_number_inside_and_outside(runtime: ContainerRuntime) -> None:
    port = PortBinding(70000, 43130, 43130, Protocol.TCP)
    await runtime.create(build_placement(67, spec=build_spec(args=("serve", "43130")), ports=(port,)))
    await runtime.start(67)

    assert await answered(ask_tcp, 43130) == "served on 43130\n"


async def test_program_that_does_not_exist_is_named(runtime: ContainerRuntime) -> None:
    await runtime.create(build_placement(68, spec=build_spec(args=("/nope",))))

    error = await refused(runtime.start(68))

    assert error.code == "container_start_failed"
    assert "/nope" in error.problem.evidence


async def test_image_that_is_not_here_is_named(runtime: ContainerRuntime) -> None:
    error = await refused(runtime.create(build_placement(69, spec=build_spec(image="kaalia/none"))))

    assert error.code == "image_not_found"
    assert await runtime.image("kaalia/none") is None


async def test_many_creates_of_one_contract_make_one_container(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    placement = build_placement(77)

    results = await asyncio.gather(*(runtime.create(placement) for _ in range(6)), return_exceptions=True)

    ids = {result for result in results if isinstance(result, str)}
    problems = {result.code for result in results if isinstance(result, WorkloadError)}
    assert len(ids) == 1
    assert problems <= {"name_taken", "network_exists", "subnet_taken"}
    assert await runtime.create(replace(placement)) in ids
    assert [one["Name"] for one in docker_host.request("GET", "/networks")].count("kaalia-net-172.28.77.0") == 1


async def test_the_inventory_is_what_the_engine_has_and_publishes(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    ports = build_ports(43300, tcp=2, udp=1)
    promised = frozenset((port.host_port, port.protocol) for port in ports)
    placement = build_placement(64, spec=build_spec(args=("serve", "8000")), ports=ports)
    container_id = await runtime.create(placement)

    (created,) = await runtime.inventory()
    assert (created.contract_id, created.container_id, created.generation) == (64, container_id, 1)
    assert (created.state, created.subnets) == (ObservedState.CREATED, (placement.subnet,))
    assert (created.promised, len(created.published)) == (promised, 0)

    running = (await runtime.start(64)).observed
    (seen,) = await runtime.inventory()
    assert (seen.state, seen.published) == (ObservedState.RUNNING, promised)
    # The kernel tells of any of its processes which container it is in.
    assert running.pid
    assert container_id in await asyncio.to_thread(system.process_containers, running.pid)
    assert container_id not in await asyncio.to_thread(system.process_containers, os.getpid())

    docker_host.request("DELETE", f"/containers/{container_id}?force=1")
    (left,) = await runtime.inventory()
    assert left == Present(64, subnets=(placement.subnet,))

    await runtime.remove(64)
    assert await runtime.inventory() == ()
