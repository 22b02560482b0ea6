"""Looking at a real Docker Engine: facts, lists, logs, events; and an engine that is killed, hung or absent."""

import asyncio
import os
import signal

import pytest

from kaalia.errors import WorkloadError
from kaalia.model.workload import PortRequest, Protocol
from kaalia.runtime.base import ANY_CONTRACT, Found, ObservedState
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.units import MIB
from tests.support.containers import output, refused
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE, EXPOSE_IMAGE
from tests.support.placements import MACHINE, build_placement, build_spec

pytestmark = pytest.mark.docker


async def test_engine_says_what_it_is(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    engine = await runtime.engine()

    assert engine.version.startswith("20.10")
    assert engine.api_version == "1.41"
    assert engine.storage_driver == ("btrfs" if docker_host.enforces_disk_size else "overlay2")
    assert engine.enforces_disk_size is docker_host.enforces_disk_size
    assert engine.live_restore
    assert engine.gpu_mode == "device_request"


async def test_image_says_its_exposed_ports(runtime: ContainerRuntime) -> None:
    facts = await runtime.image(EXPOSE_IMAGE)

    assert facts is not None
    assert facts.exposed_ports == (PortRequest(8080), PortRequest(9000, Protocol.UDP))
    assert facts.size_bytes > MIB


async def test_logs_give_the_last_lines_and_at_most_a_mebibyte(runtime: ContainerRuntime) -> None:
    script = "seq 1 30000; echo oops >&2; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"
    await runtime.create(build_placement(70, spec=build_spec(args=("sh", "-c", script))))
    await runtime.start(70)
    await output(runtime, 70, "end\n")

    assert (await runtime.logs(70, 1)) == "end\n"
    everything = await runtime.logs(70, 100_000)
    assert len(everything) == MIB
    assert everything.endswith("x\nend\n")


async def test_observe_is_complete_and_asks_details_once(
    runtime: ContainerRuntime, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    inspect = docker_engine.inspect_container

    async def counted(name: str) -> object:
        asked.append(name)
        return await inspect(name)

    for contract_id in (71, 72, 73):
        await runtime.create(build_placement(contract_id))
    await runtime.start(71)
    events = runtime.events()
    assert await anext(events) == ANY_CONTRACT
    monkeypatch.setattr(docker_engine, "inspect_container", counted)

    first = await runtime.observe()
    assert len(asked) == 3
    second = await runtime.observe()
    await events.aclose()  # type: ignore[attr-defined]

    assert {(seen.contract_id, seen.state) for seen in first.workloads} == {
        (71, ObservedState.RUNNING),
        (72, ObservedState.CREATED),
        (73, ObservedState.CREATED),
    }
    assert second == first
    assert len(asked) <= 4, "only a status text that turned a second older may be asked again"


@pytest.mark.parametrize("hears", [False, True])
async def test_observe_sees_a_run_that_happened_in_between(runtime: ContainerRuntime, *, hears: bool) -> None:
    await runtime.create(build_placement(74))
    await runtime.start(74)
    events = runtime.events()
    if hears:
        assert await anext(events) == ANY_CONTRACT
    (before,) = (await runtime.observe()).workloads

    await runtime.stop(74, 0)
    await runtime.start(74)
    if hears:
        assert [await anext(events), await anext(events)] == [74, 74], "it ended, and it started"
    (after,) = (await runtime.observe()).workloads
    await events.aclose()  # type: ignore[attr-defined]

    assert after.state is before.state
    assert after.pid != before.pid
    assert after.started_at != before.started_at


async def test_events_say_where_to_look(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    events = runtime.events()
    assert await asyncio.wait_for(anext(events), 30) == ANY_CONTRACT

    docker_host.request("POST", "/containers/create?name=other", {"Image": DEMO_IMAGE})
    await runtime.create(build_placement(75))
    seen = await asyncio.wait_for(anext(events), 30)
    await events.aclose()  # type: ignore[attr-defined]

    assert seen == 75


async def test_what_a_tenant_can_do_at_will_is_no_event(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    await runtime.create(build_placement(82))
    await runtime.start(82)
    events = runtime.events()
    assert await asyncio.wait_for(anext(events), 30) == ANY_CONTRACT

    # As a health check of the image does, up to a thousand times a second.
    made = docker_host.request("POST", "/containers/C.82/exec", {"Cmd": ["true"]})
    docker_host.request("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    await runtime.create(build_placement(83))
    seen = await asyncio.wait_for(anext(events), 30)
    await events.aclose()  # type: ignore[attr-defined]

    assert seen == 83


async def test_waiting_for_events_is_cancelled_at_once(runtime: ContainerRuntime) -> None:
    events = runtime.events()
    await asyncio.wait_for(anext(events), 30)
    loop = asyncio.get_running_loop()

    began = loop.time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(events), 0.2)

    assert loop.time() - began < 1


async def test_killed_engine_is_unknown_not_absent_and_comes_back(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    await runtime.create(build_placement(76))
    before = (await runtime.start(76)).observed
    events = runtime.events()
    assert await asyncio.wait_for(anext(events), 30) == ANY_CONTRACT

    await asyncio.to_thread(docker_host.kill)
    try:
        for attempt in (
            runtime.observe(),
            runtime.inspect(76),
            runtime.engine(),
            runtime.remove(76),
            runtime.stop(76, 0),
        ):
            assert (await refused(attempt)).code == "engine_unavailable"
    finally:
        await asyncio.to_thread(docker_host.start)

    with pytest.raises((StopAsyncIteration, WorkloadError)):
        await asyncio.wait_for(anext(events), 30)
    again = runtime.events()
    assert await asyncio.wait_for(anext(again), 30) == ANY_CONTRACT
    assert await runtime.observe() == Found((before,))
    await again.aclose()  # type: ignore[attr-defined]


async def test_engine_that_was_never_there_is_unavailable(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    engine = DockerEngine(docker_host.root / "nothing.sock")

    error = await refused(ContainerRuntime(engine, MACHINE).observe())
    engine.close()

    assert error.code == "engine_unavailable"
    assert "nothing.sock" in error.problem.evidence or "No such file" in error.problem.evidence


async def test_hung_engine_is_unavailable_until_it_wakes(runtime: ContainerRuntime, docker_host: PrivateDocker) -> None:
    await runtime.create(build_placement(78))
    impatient = DockerEngine(docker_host.socket, look_timeout_s=1)
    os.kill(docker_host.pid, signal.SIGSTOP)
    try:
        error = await refused(ContainerRuntime(impatient, MACHINE).observe())
    finally:
        os.kill(docker_host.pid, signal.SIGCONT)

    assert error.code == "engine_unavailable"
    found = await ContainerRuntime(impatient, MACHINE).observe()
    assert [seen.contract_id for seen in found.workloads] == [78]
    impatient.close()
