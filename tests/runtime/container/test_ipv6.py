"""Containers with IPv6 on a real Docker Engine, behind walls and with their ports, where the machine has IPv6."""

import asyncio
import socket
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.contracts.ports import ipv6_subnet
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.networks import enclosures
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6
from kaalia.runtime.sandbox.ports import Ports
from kaalia.runtime.sandbox.rules import Reach, names
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from kaalia.runtime.sandbox.walls import Walls
from tests.support.containers import answered, ask_tcp, ports_of
from tests.support.docker_engine import PrivateDocker
from tests.support.neighbourhood import ip, knock
from tests.support.placements import MACHINE, build_placement, build_ports, build_spec

pytestmark = pytest.mark.docker

ADDRESS = "fd99::1"
PLACED = {number: ipv6_subnet(MACHINE, f"172.28.{number}.0/28") for number in range(91, 99)}


@pytest.fixture
def link(docker_host: PrivateDocker) -> Iterator[str]:
    """The machine has an IPv6 address."""
    ip("link", "add", "six0", "type", "veth", "peer", "name", "six1")
    ip("-6", "address", "add", f"{ADDRESS}/64", "dev", "six0", "nodad")
    for name in ("six0", "six1"):
        ip("link", "set", name, "up")
    yield "six0"
    ip("link", "delete", "six0")


@pytest.fixture
def walls(docker_engine: DockerEngine) -> Iterator[Walls]:
    made = Walls(MACHINE, Reach(), "172.28.0.0/16", partial(enclosures, docker_engine, MACHINE))
    yield made
    made.close()


@pytest.fixture
def ports(docker_engine: DockerEngine) -> Ports:
    return ports_of(docker_engine)


@pytest_asyncio.fixture
async def hands(docker_engine: DockerEngine, walls: Walls, ports: Ports) -> AsyncIterator[ContainerRuntime]:
    six = NetworkIpv6(MACHINE, Reach())
    sandboxes = Sandboxes(docker_engine, MACHINE, ipv6=six)
    made = ContainerRuntime(docker_engine, MACHINE, walls=walls, ports=ports, ipv6=six, sandboxes=sandboxes)
    yield made
    await made.close()


def addresses(docker_host: PrivateDocker, number: int) -> tuple[str, str]:
    (network,) = docker_host.inspect(f"kaalia-sandbox-{number}")["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"]), str(network["GlobalIPv6Address"])


def ask_tcp6(port: int) -> str:
    with urllib.request.urlopen(f"http://[{ADDRESS}]:{port}/", timeout=5) as response:
        return str(response.read().decode())


def ask_udp6(port: int) -> bytes:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.sendto(b"ping", (ADDRESS, port))
        return client.recv(100)


async def test_a_container_has_both_families_for_life_and_its_ports_answer_by_both(
    hands: ContainerRuntime, docker_host: PrivateDocker, link: str
) -> None:
    spec = build_spec(args=("serve", "8000", "9000/udp"))
    await hands.create(build_placement(91, spec=spec, ports=build_ports(43600, tcp=1, udp=1)))
    await hands.start(91)

    assert addresses(docker_host, 91) == ("172.28.91.2", PLACED[91].replace("/64", "2"))
    assert await answered(ask_tcp6, 43600) == await answered(ask_tcp, 43600) == "served on 8000\n"
    assert await answered(ask_udp6, 43601) == b"ping"
    await hands.stop(91, 0)
    await hands.start(91)
    assert addresses(docker_host, 91)[1] == PLACED[91].replace("/64", "2")
    assert await answered(ask_tcp6, 43600) == "served on 8000\n"
    (seen,) = await hands.inventory()
    assert seen.subnets == ("172.28.91.0/29",)


async def test_it_starts_behind_walls(
    hands: ContainerRuntime, docker_host: PrivateDocker, walls: Walls, link: str
) -> None:
    for number in (92, 93):
        await hands.create(build_placement(number, spec=build_spec(args=("serve", "8000"))))
        await hands.start(number)
    pid = docker_host.inspect("C.92")["State"]["Pid"]
    other = addresses(docker_host, 93)[1]

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        writer.close()

    async with await asyncio.start_server(hang_up, "::", 0, family=socket.AF_INET6) as server:
        port = int(server.sockets[0].getsockname()[1])
        doors = [("tcp", ADDRESS, port), ("tcp", PLACED[92].replace("/64", "1"), port), ("tcp", other, 8000)]
        found = await asyncio.to_thread(knock, pid, doors)
        assert not any(found.values())
        subprocess.run(["ip6tables", "-t", "mangle", "-F"], check=True)
        assert all((await asyncio.to_thread(knock, pid, doors)).values())
        await walls.mend()
        assert not any((await asyncio.to_thread(knock, pid, doors)).values())


async def test_without_an_address_of_the_machine_there_is_none(
    hands: ContainerRuntime, docker_host: PrivateDocker, docker_engine: DockerEngine
) -> None:
    await hands.create(build_placement(94))
    await hands.start(94)

    assert addresses(docker_host, 94) == ("172.28.94.2", "")
    (one,) = await enclosures(docker_engine, MACHINE)
    assert one.subnet6 == ""


async def test_a_network_from_before_keeps_what_it_has(
    runtime: ContainerRuntime, hands: ContainerRuntime, docker_host: PrivateDocker, link: str
) -> None:
    await runtime.create(build_placement(95))

    await hands.create(build_placement(95, generation=2, spec=build_spec(args=("serve", "8000"))))
    await hands.start(95)

    assert addresses(docker_host, 95) == ("172.28.95.2", "")


async def test_an_engine_that_refuses_ipv6_makes_a_network_without(
    hands: ContainerRuntime, docker_host: PrivateDocker, link: str
) -> None:
    taken = {"Subnet": PLACED[96]}
    body = {"Name": "foreign", "EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "172.30.0.0/24"}, taken]}}
    docker_host.request("POST", "/networks/create", body)
    try:
        await hands.create(build_placement(96))
        await hands.start(96)

        assert addresses(docker_host, 96) == ("172.28.96.2", "")
    finally:
        docker_host.request("DELETE", "/networks/foreign")


async def test_a_machine_that_would_lose_its_router_s_word_keeps_it(link: str, tmp_path: Path) -> None:
    """Docker makes a machine forward, and then the kernel takes advertisements only with `accept_ra` 2."""
    for name in ("if_inet6", "ipv6_route"):
        (tmp_path / "proc/net").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/net" / name).write_text(Path("/proc/net", name).read_text())
    by_router = " ".join(["0" * 32, "00", "0" * 32, "00", f"fe80{'0' * 27}9", "00000400", "1", "0", "00450003", "six0"])
    with (tmp_path / "proc/net/ipv6_route").open("a") as file:
        file.write(f"{by_router}\n")
    for where, value in (("all/forwarding", "0"), ("six0/accept_ra", "1")):
        file_path = tmp_path / "proc/sys/net/ipv6/conf" / where
        file_path.parent.mkdir(parents=True, exist_ok=True)
        file_path.write_text(f"{value}\n")
    six = NetworkIpv6(MACHINE, Reach(), root=tmp_path)

    assert await six.subnet("172.28.97.0/28") == ""
    problem = await six.problem()
    assert problem is not None
    assert (problem.code, "accept_ra=2" in problem.remedy) == ("ipv6_unavailable", True)
    (tmp_path / "proc/sys/net/ipv6/conf/six0/accept_ra").write_text("2\n")
    assert await six.problem() is None
    assert await six.subnet("172.28.97.0/28") == PLACED[97]


async def test_the_try_leaves_nothing_behind(link: str) -> None:
    six = NetworkIpv6(MACHINE, Reach(bits_per_s=100_000_000))

    assert await six.problem() is None

    saved = [await netfilter.saved(Family.IPV6, table) for table in ("mangle", "nat", "filter")]
    mark = names(f"try of {MACHINE}").mark
    assert not any(mark in chain for table in saved for chain in table)


async def test_without_ip6tables_contracts_get_none_and_the_owner_is_told(
    link: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    six = NetworkIpv6(MACHINE, Reach())
    with monkeypatch.context() as context:
        context.setenv("PATH", str(tmp_path))
        problem = await six.problem()
        assert await six.subnet("172.28.97.0/28") == ""

    assert problem is not None
    assert problem.code == "ipv6_unavailable"
    assert "ip6tables-restore is not on this machine" in problem.message
    unwanted = NetworkIpv6(MACHINE, Reach(), is_wanted=False)
    assert await unwanted.subnet("172.28.97.0/28") == ""
    assert await unwanted.problem() is None
    ip("-6", "route", "add", "default", "via", "fd99::2", "dev", link)
    needed = await unwanted.problem()
    assert needed is not None
    assert "its only way out is by IPv6" in needed.message
    assert await six.subnet("172.28.97.0/28") == PLACED[97]
