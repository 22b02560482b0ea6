"""Sandboxes on a real Docker Engine: who takes which, what stays, and what is swept."""

import platform
import subprocess
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from kaalia.contracts.ports import next_subnet
from kaalia.errors import WorkloadError
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.networks import enclosures
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox import pause
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from tests.support.containers import output, refused
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.placements import MACHINE, build_placement, build_spec

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[3]
POOL = "172.28.0.0/24"
FIRST, SECOND, THIRD = "172.28.0.0/28", "172.28.0.16/28", "172.28.0.32/28"


class Claims:
    """What contracts have, by the books."""

    def __init__(self) -> None:
        self.subnets: set[str] = set()
        self.asked = 0

    async def read(self) -> Collection[str]:
        self.asked += 1
        return set(self.subnets)


@pytest.fixture
def claims() -> Claims:
    return Claims()


@pytest_asyncio.fixture
async def sandboxes(docker_engine: DockerEngine, claims: Claims) -> AsyncIterator[Sandboxes]:
    made = Sandboxes(docker_engine, MACHINE, warm=2)
    await refill(made, claims)
    yield made


async def refill(sandboxes: Sandboxes, claims: Claims) -> None:
    await sandboxes.refill(claims.read, lambda taken: next_subnet(POOL, taken))


def pauses(docker_host: PrivateDocker) -> dict[str, str]:
    """State by name, of all pause containers."""
    found = docker_host.request("GET", "/containers/json?all=1")
    return {one["Names"][0].lstrip("/"): one["State"] for one in found if "io.kaalia.sandbox" in one["Labels"]}


def networks(docker_host: PrivateDocker) -> set[str]:
    found = docker_host.request("GET", "/networks")
    return {one["Name"] for one in found if one["Name"].startswith("kaalia-net-")}


async def test_one_that_stands_ready_is_taken_and_another_made(
    sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    assert sandboxes.warm == {FIRST, SECOND}
    ready = docker_host.inspect("kaalia-warm-172.28.0.0")
    claims.subnets.add(FIRST)

    network = await sandboxes.hold(51, FIRST)
    again = await sandboxes.hold(51, FIRST)
    taken = docker_host.inspect("kaalia-sandbox-51")
    assert sandboxes.warm == {SECOND}
    await refill(sandboxes, claims)

    assert (taken["Id"], taken["State"]["Pid"]) == (ready["Id"], ready["State"]["Pid"])
    assert network == again
    assert network.network_id == docker_host.request("GET", "/networks/kaalia-net-172.28.0.0")["Id"]
    assert sandboxes.warm == {SECOND, THIRD}
    assert docker_host.inspect("kaalia-sandbox-51")["State"]["Pid"] == ready["State"]["Pid"]


async def test_what_was_left_is_removed_with_its_network_and_nothing_else(
    sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    claims.subnets |= {FIRST, SECOND}
    await sandboxes.hold(51, FIRST)
    await sandboxes.hold(52, SECOND)
    await sandboxes.leave(51)
    await sandboxes.leave(51)
    claims.subnets.discard(FIRST)

    await refill(sandboxes, claims)

    # The first subnet is free again, and the first to be made ready.
    assert sandboxes.warm == {FIRST, THIRD}
    warm = {"kaalia-warm-172.28.0.0": "running", "kaalia-warm-172.28.0.32": "running"}
    assert pauses(docker_host) == {"kaalia-sandbox-52": "running", **warm}
    assert networks(docker_host) == {f"kaalia-net-172.28.0.{number}" for number in (0, 16, 32)}


async def test_a_host_name_makes_a_sandbox_of_its_own(
    docker_engine: DockerEngine, sandboxes: Sandboxes, docker_host: PrivateDocker
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    spec = build_spec(args=("sh", "-c", "hostname; echo end; sleep 9"), hostname="rented")
    before = docker_host.inspect("kaalia-warm-172.28.0.0")["Id"]

    await runtime.create(build_placement(51, spec=spec, subnet=FIRST))
    await runtime.start(51)

    assert "rented\nend" in await output(runtime, 51, "end\n")
    assert docker_host.inspect("kaalia-sandbox-51")["Id"] != before
    await runtime.close()


async def test_a_newer_generation_keeps_its_place(
    docker_engine: DockerEngine, sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    claims.subnets.add(FIRST)
    await runtime.create(build_placement(51, subnet=FIRST))
    await runtime.start(51)
    before = docker_host.inspect("kaalia-sandbox-51")["Id"]

    await runtime.remove(51)
    await refill(sandboxes, claims)
    await runtime.create(build_placement(51, generation=2, subnet=FIRST))
    await runtime.start(51)

    assert docker_host.inspect("kaalia-sandbox-51")["Id"] == before
    await runtime.close()


async def test_nobody_gets_a_sandbox_that_was_another_s(sandboxes: Sandboxes, docker_host: PrivateDocker) -> None:
    await sandboxes.hold(51, FIRST)
    before = docker_host.inspect("kaalia-sandbox-51")["Id"]
    await sandboxes.leave(51)

    await sandboxes.hold(52, FIRST)

    assert docker_host.inspect("kaalia-sandbox-52")["Id"] != before
    assert before not in {one["Id"] for one in docker_host.request("GET", "/containers/json?all=1")}


async def test_a_network_of_somebody_else_is_not_tried_twice(
    docker_engine: DockerEngine, claims: Claims, docker_host: PrivateDocker
) -> None:
    sandboxes = Sandboxes(docker_engine, MACHINE, warm=1)
    docker_host.request("POST", "/networks/create", {"Name": "kaalia-net-172.28.0.0"})

    error = await refused(refill(sandboxes, claims))
    await refill(sandboxes, claims)

    assert error.code == "network_exists"
    assert sandboxes.warm == {SECOND}


async def test_a_crash_leaves_nothing_for_long(
    sandboxes: Sandboxes, claims: Claims, docker_engine: DockerEngine, docker_host: PrivateDocker
) -> None:
    labels = {"io.kaalia.machine": MACHINE, "io.kaalia.sandbox": "172.28.0.64/28"}
    docker_host.request("POST", "/networks/create", {"Name": "kaalia-net-172.28.0.64", "Labels": labels})
    await sandboxes.hold(51, THIRD)
    await sandboxes.hold(52, "172.28.0.48/28")
    claims.subnets.add("172.28.0.48/28")
    docker_host.request("POST", "/containers/kaalia-sandbox-52/stop?t=0")
    docker_host.request("POST", "/containers/kaalia-warm-172.28.0.0/stop?t=0")

    again = Sandboxes(docker_engine, MACHINE, warm=2)
    await refill(again, claims)

    assert again.warm == {FIRST, SECOND}
    warm = {"kaalia-warm-172.28.0.0": "running", "kaalia-warm-172.28.0.16": "running"}
    assert pauses(docker_host) == {"kaalia-sandbox-52": "running", **warm}
    assert networks(docker_host) == {f"kaalia-net-172.28.0.{number}" for number in (0, 16, 48)}


async def test_one_that_a_container_is_in_stays_whatever_the_books_say(
    docker_engine: DockerEngine, sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    await runtime.create(build_placement(51, subnet=THIRD))
    await runtime.start(51)
    before = docker_host.inspect("kaalia-sandbox-51")["State"]["Pid"]

    await refill(sandboxes, claims)

    assert docker_host.inspect("kaalia-sandbox-51")["State"]["Pid"] == before
    await runtime.close()


async def test_a_subnet_that_a_contract_claims_meanwhile_is_left_to_it(
    docker_engine: DockerEngine, claims: Claims, docker_host: PrivateDocker
) -> None:
    sandboxes = Sandboxes(docker_engine, MACHINE, warm=1)
    making: list[frozenset[str]] = []

    async def claimed() -> Collection[str]:
        making.append(sandboxes.making)
        if sandboxes.making == {FIRST}:
            claims.subnets.add(FIRST)
        return await claims.read()

    await sandboxes.refill(claimed, lambda taken: next_subnet(POOL, taken))

    assert sandboxes.warm == {SECOND}
    assert making[-1] == {SECOND}
    assert sandboxes.making == frozenset()
    assert networks(docker_host) == {"kaalia-net-172.28.0.16"}


async def test_a_pause_that_somebody_removed_is_named(
    docker_engine: DockerEngine, sandboxes: Sandboxes, docker_host: PrivateDocker
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    await runtime.create(build_placement(51, subnet=FIRST))
    await runtime.start(51)
    await runtime.stop(51, 0)
    docker_host.request("DELETE", "/containers/kaalia-sandbox-51?force=1")

    error = await refused(runtime.start(51))

    assert error.code == "network_missing"
    assert "docker cp C.51" in error.problem.remedy
    await runtime.close()


@pytest.mark.parametrize("whose", ["a stranger's", "another contract's"])
async def test_what_is_not_ones_own_is_refused(sandboxes: Sandboxes, docker_host: PrivateDocker, whose: str) -> None:
    if whose == "a stranger's":
        body: dict[str, Any] = {"Image": build_spec().image}
        docker_host.request("POST", "/containers/create?name=kaalia-sandbox-51", body)
    else:
        await sandboxes.hold(50, FIRST)

    with pytest.raises(WorkloadError) as raised:
        await sandboxes.hold(51, FIRST)

    assert raised.value.code == {"a stranger's": "name_taken", "another contract's": "subnet_taken"}[whose]


async def test_uninstalling_removes_all_unless_a_contract_has_data_here(
    docker_engine: DockerEngine, sandboxes: Sandboxes, docker_host: PrivateDocker
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    await runtime.create(build_placement(51, subnet=THIRD))
    other = Sandboxes(docker_engine, "77@ff11223344556677", warm=1)
    await other.hold(52, "172.28.0.240/28")

    def remove(key: str) -> None:
        steps = f". {ROOT}/scripts/steps.sh; dry_run=no; remove_sandboxes {docker_host.docker_host} '{key}'"
        subprocess.run(["bash", "-euo", "pipefail", "-c", steps], check=True)

    for key in (MACHINE.partition("@")[2], ""):
        remove(key)
        assert len(pauses(docker_host)) == 4
    await runtime.remove(51)
    remove("")
    remove("223344556677")
    assert len(pauses(docker_host)) > 1
    remove(MACHINE.partition("@")[2])

    assert list(pauses(docker_host)) == ["kaalia-sandbox-52"], "of another daemon on the same engine"
    assert len(networks(docker_host)) == 1
    remove("ff11223344556677")
    assert (pauses(docker_host), networks(docker_host)) == ({}, set())
    await runtime.close()


@pytest.mark.parametrize("subnet", [FIRST, "172.28.0.240/28", ""])
async def test_a_label_of_an_image_makes_no_pause_of_a_workload(
    docker_engine: DockerEngine, sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker, subnet: str
) -> None:
    """Docker gives the labels of its image to a container."""
    made = docker_host.request("POST", "/containers/create", {"Image": build_spec().image})["Id"]
    change = quote(f'LABEL io.kaalia.sandbox="{subnet}"')
    docker_host.request("POST", f"/commit?container={made}&repo=kaalia-test/labelled&tag=1&changes={change}")
    docker_host.request("DELETE", f"/containers/{made}")
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    claims.subnets |= {FIRST, THIRD}
    await runtime.create(build_placement(51, spec=build_spec(image="kaalia-test/labelled:1"), subnet=THIRD))

    await refill(sandboxes, claims)
    await runtime.start(51)
    pid = docker_host.inspect("C.51")["State"]["Pid"]
    await refill(sandboxes, claims)
    assert docker_host.inspect("C.51")["State"]["Pid"] == pid, "a tenant that runs is not removed"
    await runtime.stop(51, 0)
    await refill(sandboxes, claims)

    assert docker_host.inspect("C.51")["State"]["Status"] == "exited", "one that was stopped is not started"
    assert [one.contract_id for one in (await runtime.observe()).workloads] == [51]
    await runtime.close()


async def test_an_image_under_the_name_of_the_pause_is_not_used(
    docker_engine: DockerEngine, claims: Claims, docker_host: PrivateDocker
) -> None:
    tag = pause.image(platform.machine()).tag
    repository, _, version = tag.rpartition(":")
    docker_host.request("POST", f"/images/{DEMO_IMAGE}/tag?repo={repository}&tag={version}")
    sandboxes = Sandboxes(docker_engine, MACHINE, warm=1)

    await refill(sandboxes, claims)

    assert docker_host.inspect("kaalia-warm-172.28.0.0")["Path"] == "/pause"
    assert docker_host.request("GET", f"/images/{tag}/json")["Size"] < 1000


async def test_one_that_is_taken_while_others_are_swept_stays(
    docker_engine: DockerEngine, sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    docker_host.request("POST", "/containers/kaalia-warm-172.28.0.0/stop?t=0")
    again = Sandboxes(docker_engine, MACHINE, warm=1)

    async def claimed() -> Collection[str]:
        if claims.asked == 1:
            claims.subnets.add(FIRST)
            await again.hold(51, FIRST)
        return await claims.read()

    claims.asked = 0
    await again.refill(claimed, lambda taken: next_subnet(POOL, taken))

    assert pauses(docker_host) == {"kaalia-sandbox-51": "running", "kaalia-warm-172.28.0.16": "running"}
    assert networks(docker_host) == {"kaalia-net-172.28.0.0", "kaalia-net-172.28.0.16"}


async def test_networks_of_an_earlier_pool_are_not_given_to_anybody(
    docker_engine: DockerEngine, sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    again = Sandboxes(docker_engine, MACHINE, warm=1, pool="172.28.1.0/24")

    await again.refill(claims.read, lambda taken: next_subnet("172.28.1.0/24", taken))

    assert again.warm == {"172.28.1.0/28"}
    assert networks(docker_host) == {"kaalia-net-172.28.1.0"}


async def test_one_that_cannot_be_removed_holds_up_no_other(
    sandboxes: Sandboxes, claims: Claims, docker_host: PrivateDocker
) -> None:
    await sandboxes.hold(51, FIRST)
    await sandboxes.leave(51)
    await sandboxes.hold(52, THIRD)
    await sandboxes.leave(52)
    body = {"Image": DEMO_IMAGE, "Cmd": ["sleep", "99"], "HostConfig": {"NetworkMode": "kaalia-net-172.28.0.0"}}
    docker_host.request("POST", "/containers/create?name=owners", body)
    docker_host.request("POST", "/containers/owners/start")

    # The machine still routes the first.
    await sandboxes.refill(claims.read, lambda taken: next_subnet(POOL, {*taken, FIRST}))

    assert sandboxes.warm == {SECOND, THIRD}
    assert networks(docker_host) == {f"kaalia-net-172.28.0.{number}" for number in (0, 16, 32)}
    assert "kaalia-net-172.28.0.0" in docker_host.inspect("owners")["NetworkSettings"]["Networks"]


@pytest.mark.parametrize("is_left", [False, True])
async def test_whoever_is_in_a_network_stays_behind_walls(
    docker_engine: DockerEngine, sandboxes: Sandboxes, docker_host: PrivateDocker, *, is_left: bool
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    await runtime.create(build_placement(51, subnet=FIRST))
    await runtime.start(51)

    if is_left:
        await sandboxes.leave(51)
    else:
        docker_host.request("POST", "/containers/kaalia-sandbox-51/rename?name=strange")

    assert [(one.contract_id, one.subnet) for one in await enclosures(docker_engine, MACHINE)] == [(51, FIRST)]
    await runtime.close()


async def test_a_workload_under_another_name_keeps_its_sandbox(
    docker_engine: DockerEngine, sandboxes: Sandboxes, docker_host: PrivateDocker
) -> None:
    runtime = ContainerRuntime(docker_engine, MACHINE, sandboxes=sandboxes)
    await runtime.create(build_placement(51, subnet=FIRST))
    docker_host.request("POST", "/containers/C.51/rename?name=mine")

    error = await refused(runtime.remove(51))

    assert error.code == "labels_unreadable"
    assert "kaalia-sandbox-51" in pauses(docker_host)
    await runtime.close()
