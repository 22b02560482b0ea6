"""Containers that bear our labels and are not what they say: set apart, never touched, and nobody else is held up."""

from pathlib import Path
from typing import Any

import pytest

from kaalia.runtime.base import ObservedState, Present
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.labels import Labels, encode
from tests.support.containers import refused
from tests.support.docker_engine import PrivateDocker
from tests.support.docker_proxy import DockerProxy, Fault
from tests.support.images import DEMO_IMAGE
from tests.support.placements import MACHINE, build_placement

pytestmark = pytest.mark.docker


def run_foreign(docker_host: PrivateDocker, name: str, labels: dict[str, str]) -> dict[str, Any]:
    body = {"Image": DEMO_IMAGE, "Cmd": ["sleep", "1000"], "Labels": labels}
    docker_host.request("POST", f"/containers/create?name={name}", body)
    docker_host.request("POST", f"/containers/{name}/start")
    return docker_host.inspect(name)


async def test_spoilt_labels_are_set_apart_and_the_rest_is_seen(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    await runtime.create(build_placement(81))
    labels = encode(Labels(MACHINE, 82, 1, "f" * 64)) | {"io.kaalia.schema": "99"}
    before = run_foreign(docker_host, "C.82", labels)

    found = await runtime.observe()
    inventory = {one.contract_id: one for one in await runtime.inventory()}

    assert [one.contract_id for one in found.workloads] == [81]
    assert set(inventory) == {81, 82}
    assert inventory[82] == Present(82, before["Id"])
    (apart,) = found.set_apart
    assert (apart.name, apart.contract_ids, apart.container_id) == ("C.82", frozenset({82}), before["Id"])
    assert apart.problem.code == "labels_unreadable"
    for attempt in (runtime.inspect(82), runtime.stop(82, 0), runtime.remove(82), runtime.create(build_placement(82))):
        assert (await refused(attempt)).code == "labels_unreadable"
    assert docker_host.inspect("C.82")["State"] == before["State"]


async def test_a_copy_with_all_labels_does_not_stand_for_the_workload(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    await runtime.create(build_placement(83))
    await runtime.start(83)
    labels = docker_host.inspect("C.83")["Config"]["Labels"]
    run_foreign(docker_host, "backup", labels)
    docker_host.request("POST", "/containers/backup/stop?t=0")

    found = await runtime.observe()

    assert [(one.name, one.state) for one in found.workloads] == [("C.83", ObservedState.RUNNING)]
    assert [(one.name, one.contract_ids) for one in found.set_apart] == [("backup", frozenset())]
    await runtime.remove(83)
    assert await runtime.inspect(83) is None
    assert docker_host.has_container("backup")


async def test_a_renamed_workload_is_not_lost(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    await runtime.create(build_placement(84))
    await runtime.start(84)
    docker_host.request("POST", "/containers/C.84/rename?name=mine")

    error = await refused(runtime.inspect(84))
    found = await runtime.observe()

    assert error.code == "labels_unreadable"
    assert "docker rename mine C.84" in error.problem.remedy
    assert found.workloads == ()
    assert [(one.name, one.contract_ids) for one in found.set_apart] == [("mine", frozenset({84}))]

    docker_host.request("POST", "/containers/mine/rename?name=C.84")
    assert [one.contract_id for one in (await runtime.observe()).workloads] == [84]


async def test_what_the_engine_refuses_to_describe_holds_nobody_up(
    runtime: ContainerRuntime, docker_host: PrivateDocker, tmp_path: Path
) -> None:
    """As a container whose layer is broken: listed, and each inspection of it ends in a server error."""
    for contract_id in (85, 86):
        await runtime.create(build_placement(contract_id))
    broken = docker_host.inspect("C.85")["Id"]

    with DockerProxy(tmp_path / "proxy.sock", docker_host) as proxy:
        proxy.add(Fault("refuse", "GET", f"/containers/{broken}/json"))
        engine = DockerEngine(proxy.socket)
        seen = ContainerRuntime(engine, MACHINE)
        found, healed = await seen.observe(), await seen.observe()
        engine.close()

    assert [one.contract_id for one in found.workloads] == [86]
    assert [(one.name, one.contract_ids, one.problem.code) for one in found.set_apart] == [
        ("C.85", frozenset({85}), "engine_refused")
    ]
    assert {one.contract_id for one in healed.workloads} == {85, 86}
