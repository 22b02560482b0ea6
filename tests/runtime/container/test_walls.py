"""Containers start behind walls or not at all, on a real Docker Engine."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.errors import WorkloadError
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.runtime.base import ObservedState
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.networks import enclosures
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.rules import Reach
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from kaalia.runtime.sandbox.walls import Walls
from tests.support.containers import answered, ask_tcp, output, ports_of
from tests.support.docker_engine import PrivateDocker
from tests.support.placements import MACHINE, build_placement, build_ports, build_spec

pytestmark = pytest.mark.docker

OWN = rules.names(MACHINE)


@pytest.fixture
def walls(docker_engine: DockerEngine) -> Iterator[Walls]:
    made = Walls(MACHINE, Reach(), "172.28.0.0/16", partial(enclosures, docker_engine, MACHINE))
    yield made
    made.close()


@pytest_asyncio.fixture
async def walled(docker_engine: DockerEngine, walls: Walls) -> AsyncIterator[ContainerRuntime]:
    made = ContainerRuntime(
        docker_engine,
        MACHINE,
        walls=walls,
        ports=ports_of(docker_engine),
        sandboxes=Sandboxes(docker_engine, MACHINE),
    )
    yield made
    await made.close()


@pytest_asyncio.fixture
async def service() -> AsyncIterator[int]:
    """The port of something that listens on all addresses of the machine, and hangs up on whoever comes."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "0.0.0.0", 0) as server:
        yield int(server.sockets[0].getsockname()[1])


def knocking(contract_id: int, port: int) -> tuple[str, ...]:
    """The first thing that the container does is to knock at its machine."""
    knock = f"nc -w 2 172.28.{contract_id}.1 {port} </dev/null 2>/dev/null && echo open || echo shut"
    return ("sh", "-c", f"{knock}; sleep 1000")


async def texts(chain: str = OWN.walls) -> list[str]:
    return [rule.text for rule in (await netfilter.saved(Family.IPV4, "mangle")).get(chain, ())]


async def test_the_first_packet_meets_the_walls(
    runtime: ContainerRuntime, walled: ContainerRuntime, service: int
) -> None:
    for contract_id, hands in ((61, runtime), (62, walled)):
        spec = build_spec(args=knocking(contract_id, service))
        await hands.create(build_placement(contract_id, spec=spec))
        await hands.start(contract_id)

    assert await output(runtime, 61, "\n") == "open\n"
    assert await output(walled, 62, "\n") == "shut\n"


async def test_published_ports_answer_through_the_walls(walled: ContainerRuntime) -> None:
    ports = build_ports(43100, tcp=1)
    await walled.create(build_placement(63, spec=build_spec(args=("serve", "8000")), ports=ports))

    await walled.start(63)

    assert await answered(ask_tcp, 43100) == "served on 8000\n"


async def test_a_tenant_starts_again_behind_walls_that_were_flushed(
    walled: ContainerRuntime, docker_engine: DockerEngine
) -> None:
    await walled.create(build_placement(64))
    await walled.start(64)
    await walled.stop(64, 0)
    await netfilter.apply(Family.IPV4, [netfilter.Change("mangle", commands=[("-F",)])])
    walls = Walls(MACHINE, Reach(), "172.28.0.0/16", partial(enclosures, docker_engine, MACHINE))

    again = ContainerRuntime(
        docker_engine,
        MACHINE,
        walls=walls,
        ports=ports_of(docker_engine),
        sandboxes=Sandboxes(docker_engine, MACHINE),
    )
    await again.start(64)
    await again.close()

    (network,) = await enclosures(docker_engine, MACHINE)
    assert [text for text in await texts() if f"-i {network.bridge} " in text]
    assert Path(f"/sys/class/net/{network.bridge}/bridge").is_dir()


async def test_rules_go_with_the_network(walled: ContainerRuntime, walls: Walls) -> None:
    await walled.create(build_placement(65))
    await walled.start(65)
    before = await texts()
    await walled.remove(65)
    await walls.mend()

    assert any("kaalia-65" in text for text in before)
    assert not any("kaalia-65" in text for text in await texts())


async def test_without_walls_nothing_starts(
    walled: ContainerRuntime, docker_host: PrivateDocker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await walled.create(build_placement(66))
    with monkeypatch.context() as context:
        context.setenv("PATH", str(tmp_path))
        with pytest.raises(WorkloadError) as caught:
            await walled.start(66)
    state = docker_host.inspect("C.66")["State"]

    assert caught.value.code == "walls_failed"
    assert (state["Status"], state["StartedAt"][:4]) == ("created", "0001")
    assert (await walled.start(66)).observed.state is ObservedState.RUNNING
