"""A container goes, and the next one of its contract finds network, address and ports, on a real Docker Engine."""

from pathlib import Path

import pytest

from kaalia.model.workload import Protocol
from kaalia.runtime.container.runtime import ContainerRuntime
from tests.runtime.container.test_published import SERVING
from tests.support.containers import address_of, answered, ask_tcp
from tests.support.docker_engine import PrivateDocker
from tests.support.placements import build_placement, build_ports

pytestmark = pytest.mark.docker


async def run(runtime: ContainerRuntime, generation: int) -> None:
    ports = build_ports(43470, tcp=1)
    await runtime.create(build_placement(71, spec=SERVING, generation=generation, ports=ports))
    await runtime.start(71)
    assert await answered(ask_tcp, 43470) == "served on 8000\n"


async def test_the_next_container_finds_sandbox_and_ports(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    await run(runtime, 1)
    sandbox, made = docker_host.inspect("kaalia-sandbox-71")["Id"], docker_host.inspect("C.71")["Id"]
    address = address_of(docker_host, "C.71")

    await runtime.stop(71, 0)
    await runtime.discard(71)
    assert await runtime.inspect(71) is None
    await runtime.discard(71)
    await run(runtime, 2)

    assert docker_host.inspect("C.71")["Id"] != made
    assert docker_host.inspect("kaalia-sandbox-71")["Id"] == sandbox
    assert address_of(docker_host, "C.71") == address
    (seen,) = await runtime.inventory()
    assert seen.published == seen.promised == {(43470, Protocol.TCP)}


async def test_what_was_emptied_is_made_anew(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    await run(runtime, 1)
    hosts = Path(docker_host.inspect("C.71")["HostsPath"])
    assert hosts.stat().st_size > 0
    hosts.write_bytes(b"")

    await runtime.stop(71, 0)
    await runtime.discard(71)
    await run(runtime, 2)

    assert Path(docker_host.inspect("C.71")["HostsPath"]).stat().st_size > 0
