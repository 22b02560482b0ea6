"""Published ports of containers on a real Docker Engine, which knows nothing of them."""

from pathlib import Path

import pytest

from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.base import Placement
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.networks import publications
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.container.spec import container_body, container_name, network_body
from tests.support.containers import address_of, answered, ask_tcp, ask_udp, ports_of
from tests.support.docker_engine import PrivateDocker
from tests.support.placements import MACHINE, build_placement, build_ports, build_spec

pytestmark = pytest.mark.docker

SERVING = build_spec(args=("serve", "8000", "9000/udp"))


def proxies() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "comm").exists():
            name = (folder / "comm").read_text().strip()
            found += [name] if name.startswith("docker-proxy") else []
    return found


async def test_ports_lead_to_the_container_and_docker_runs_no_proxy(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    await runtime.create(build_placement(81, spec=SERVING, ports=build_ports(43400, tcp=1, udp=1)))

    await runtime.start(81)

    assert await answered(ask_tcp, 43400) == "served on 8000\n"
    assert await answered(ask_udp, 43401) == b"ping"
    assert docker_host.inspect("C.81")["NetworkSettings"]["Ports"] == {}
    assert proxies() == []


async def test_stop_start_and_a_death_of_the_engine_keep_address_and_ports(
    runtime: ContainerRuntime, docker_host: PrivateDocker, docker_engine: DockerEngine
) -> None:
    ports = (*build_ports(43410, tcp=1), PortBinding(70000, 43419, 43419, Protocol.TCP))
    await runtime.create(build_placement(82, spec=build_spec(args=("serve", "8000", "43419")), ports=ports))
    await runtime.start(82)
    before = address_of(docker_host, "C.82")

    await runtime.stop(82, 0)
    await runtime.start(82)
    assert await answered(ask_tcp, 43410) == "served on 8000\n"
    docker_host.kill()
    try:
        assert await answered(ask_tcp, 43419) == "served on 43419\n"
    finally:
        docker_host.start()

    assert await answered(ask_tcp, 43410) == "served on 8000\n"
    assert address_of(docker_host, "C.82") == before == "172.28.82.2"
    (one,) = await publications(docker_engine, MACHINE)
    assert (one.contract_id, one.address, one.ports) == (82, before, ports)


async def test_a_removed_container_s_ports_are_free_for_the_next_one(
    runtime: ContainerRuntime, docker_engine: DockerEngine
) -> None:
    for number in (83, 84):
        await runtime.create(build_placement(number, spec=SERVING, ports=build_ports(43420, tcp=1, udp=1)))
        await runtime.start(number)
        assert await answered(ask_tcp, 43420) == "served on 8000\n"
        assert await answered(ask_udp, 43421) == b"ping"
        await runtime.remove(number)

    assert await ports_of(docker_engine).published() == {}


async def test_a_newer_generation_gets_the_ports(runtime: ContainerRuntime) -> None:
    await runtime.create(build_placement(85, ports=build_ports(43430, tcp=2)))
    await runtime.start(85)

    spec = build_spec(args=("serve", "8000"))
    await runtime.create(build_placement(85, spec=spec, generation=2, ports=build_ports(43430, tcp=1)))
    await runtime.start(85)

    assert await answered(ask_tcp, 43430) == "served on 8000\n"
    (seen,) = await runtime.inventory()
    assert seen.published == seen.promised == {(43430, Protocol.TCP)}


async def by_an_older_kaalia(engine: DockerEngine, placement: Placement) -> None:
    """The same container as it was made when Docker published: with bindings, without a fixed address."""
    body = container_body(placement, await engine.facts(), await engine.ulimits())
    del body["NetworkingConfig"], body["Labels"]["io.kaalia.address"]
    body["HostConfig"]["PortBindings"] = {
        f"{port.container_port}/{port.protocol}": [{"HostIp": "0.0.0.0", "HostPort": str(port.host_port)}]
        for port in placement.ports
    }
    await engine.create_network(network_body(placement))
    await engine.create_container(container_name(placement.contract.contract_id), body)


async def test_a_container_of_an_older_kaalia_keeps_docker_s_ports(
    runtime: ContainerRuntime, docker_host: PrivateDocker, docker_engine: DockerEngine
) -> None:
    placement = build_placement(86, spec=SERVING, ports=build_ports(43440, tcp=1, udp=1))
    await by_an_older_kaalia(docker_engine, placement)
    made = docker_host.inspect("C.86")["Id"]

    assert await runtime.create(placement) == made
    await runtime.start(86)
    await ports_of(docker_engine).mend()

    assert await answered(ask_tcp, 43440) == "served on 8000\n"
    assert await answered(ask_udp, 43441) == b"ping"
    assert "docker-proxy" in proxies()
    assert await publications(docker_engine, MACHINE) == ()
    (seen,) = await runtime.inventory()
    assert seen.published == seen.promised
    await runtime.stop(86, 0)
    await runtime.start(86)
    assert await answered(ask_tcp, 43440) == "served on 8000\n"


async def test_a_container_under_another_name_keeps_its_ports_and_a_copy_gets_none(
    runtime: ContainerRuntime, docker_host: PrivateDocker, docker_engine: DockerEngine
) -> None:
    await runtime.create(build_placement(87, spec=SERVING, ports=build_ports(43450, tcp=1)))
    await runtime.start(87)
    docker_host.request("POST", "/containers/C.87/rename?name=mine")
    labels = docker_host.inspect("mine")["Config"]["Labels"]
    docker_host.request("POST", "/containers/create?name=copy", {"Image": SERVING.image, "Labels": labels})

    await ports_of(docker_engine).mend()

    assert await answered(ask_tcp, 43450) == "served on 8000\n"
    (one,) = await publications(docker_engine, MACHINE)
    assert one.address == address_of(docker_host, "mine")
