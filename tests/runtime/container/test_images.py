"""References, progress lines, and pulls from a registry that behaves, refuses, trickles, stalls and breaks off."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from kaalia.clock import SystemClock
from kaalia.errors import WorkloadError
from kaalia.model.workload import PortRequest
from kaalia.runtime.base import RegistryLogin
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.images import Images, PullProgress, normalise
from kaalia.units import MIB
from tests.support.docker_engine import PrivateDocker
from tests.support.images import rootfs
from tests.support.registry import Mode, Registry, random_layer

FORBIDDEN = re.compile(r"error|failed|failure|exception|traceback|oci runtime|permission denied", re.IGNORECASE)


def test_a_reference_gets_its_tag() -> None:
    assert normalise(" ubuntu\n") == "ubuntu:latest"


def test_what_is_no_reference_is_refused() -> None:
    with pytest.raises(WorkloadError) as raised:
        normalise("http://x/y")

    assert raised.value.code == "image_invalid"


def fold(reference: str, *documents: dict[str, Any]) -> str:
    progress = PullProgress(reference)
    for document in documents:
        progress.add(document)
    return progress.line()


def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
    return {"status": "Downloading", "id": layer, "progressDetail": {"current": current * MIB, "total": total * MIB}}


def test_progress_sums_bytes_over_layers() -> None:
    assert fold("ubuntu:22.04") == "pulling ubuntu:22.04"
    assert (
        fold("ubuntu:22.04", {"status": "Pulling from library/ubuntu", "id": "22.04"}, downloading("a", 40, 60),
             downloading("b", 5, 60))
        == "pulling ubuntu:22.04: 45 of 120 MiB (37 %)"
    )  # fmt: skip


def test_progress_tells_unpacking_from_pulling() -> None:
    complete = {"status": "Pull complete", "id": "a"}
    waiting = {"status": "Waiting", "id": "b", "progressDetail": {}}
    done = {"status": "Download complete", "id": "b", "progressDetail": {}}

    assert fold("x:1", downloading("a", 9, 9), complete, waiting) == "pulling x:1: 1 of 2 layers"
    assert fold("x:1", downloading("a", 9, 9), complete, downloading("b", 5, 9), done) == "unpacking x:1: 1 of 2 layers"


@given(
    st.sampled_from(["ubuntu:22.04", "acme/error-detector:1", "acme/failed-runs:traceback", "acme/oci:exception"]),
    st.lists(
        st.fixed_dictionaries(
            {
                "status": st.sampled_from(
                    ["Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete",
                     "Extracting", "Pull complete", "Already exists", "Retrying in 5 seconds", "Digest: sha256:0",
                     "Pulling from x"]
                ),
                "id": st.sampled_from(["", "a", "b", "c"]),
                "progressDetail": st.fixed_dictionaries({}, optional={"current": st.integers(0, 10**12),
                                                                      "total": st.integers(-1, 10**12)}),
            }
        )
    ),
)  # fmt: skip
def test_progress_never_sounds_like_an_end(reference: str, documents: list[dict[str, Any]]) -> None:
    line = fold(reference, *documents)

    assert not FORBIDDEN.search(line)
    percent = re.search(r"\((\d+) %\)", line)
    assert percent is None or 0 <= int(percent[1]) < 100


@pytest_asyncio.fixture
async def registry() -> AsyncIterator[Registry]:
    registry = Registry()
    await registry.start()
    yield registry
    await registry.stop()


@pytest.fixture
def images(docker_engine: DockerEngine) -> Images:
    return Images(docker_engine, SystemClock(), inactivity_s=1.0)


async def refused(images: Images, reference: str, login: RegistryLogin | None = None) -> WorkloadError:
    with pytest.raises(WorkloadError) as raised:
        await images.pull(reference, login, lambda line: None)
    assert raised.value.problem.remedy
    return raised.value


@pytest.mark.docker
async def test_pull_brings_the_image_and_its_facts(images: Images, registry: Registry) -> None:
    config = {"Cmd": ["sh"], "ExposedPorts": {"8888/tcp": {}}}
    reference = registry.add("plain", "1", [rootfs()], config)
    lines: list[str] = []

    facts = await images.pull(reference, None, lines.append)
    again = await images.pull(reference, None, lines.append)

    assert facts == again == await images.image(reference)
    assert facts.exposed_ports == (PortRequest(8888),)
    assert lines[0] == f"pulling {reference}"


@pytest.mark.docker
async def test_slow_pull_reports_bytes_and_is_not_taken_for_stalled(images: Images, registry: Registry) -> None:
    registry.mode = Mode.SLOW
    reference = registry.add("slow", "1", [random_layer(4 * MIB)])
    lines: list[str] = []

    await images.pull(reference, None, lines.append)

    assert any(re.fullmatch(rf"pulling {reference}: \d+ of 4 MiB \(\d+ %\)", line) for line in lines), lines
    assert len(lines) == len(set(lines))
    assert not any(FORBIDDEN.search(line) for line in lines)


@pytest.mark.docker
async def test_pulls_of_one_reference_are_one_pull(images: Images, registry: Registry) -> None:
    registry.mode = Mode.SLOW
    reference = registry.add("shared", "1", [random_layer(2 * MIB)])
    first: list[str] = []
    second: list[str] = []

    results = await asyncio.gather(
        images.pull(reference, None, first.append), images.pull(reference, None, second.append)
    )

    assert results[0] == results[1]
    assert registry.layer_requests == 1
    assert second[-1] == first[-1]
    assert any("MiB" in line for line in second)


@pytest.mark.docker
async def test_pull_that_one_of_two_waiters_leaves_goes_on(images: Images, registry: Registry) -> None:
    registry.mode = Mode.SLOW
    reference = registry.add("left", "1", [random_layer(2 * MIB)])

    stays = asyncio.ensure_future(images.pull(reference, None, lambda line: None))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(images.pull(reference, None, lambda line: None), 0.2)

    assert (await stays).size_bytes >= 2 * MIB


@pytest.mark.docker
async def test_cancelled_pull_is_cut_at_once_and_can_be_begun_again(images: Images, registry: Registry) -> None:
    registry.mode = Mode.SILENT
    reference = registry.add("cancelled", "1", [random_layer(MIB)])
    loop = asyncio.get_running_loop()

    began = loop.time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(images.pull(reference, None, lambda line: None), 0.2)
    took_s = loop.time() - began
    registry.mode = Mode.PLAIN

    assert took_s < 0.5
    assert (await images.pull(reference, None, lambda line: None)).size_bytes >= MIB


@pytest.mark.docker
@pytest.mark.parametrize("mode", [Mode.STALLED, Mode.SILENT])
async def test_stalled_pull_is_given_up_after_silence(images: Images, registry: Registry, mode: Mode) -> None:
    registry.mode = mode
    loop = asyncio.get_running_loop()

    began = loop.time()
    error = await refused(images, registry.add("stalled", mode, [random_layer(2 * MIB)]))

    assert error.code == "pull_stalled"
    assert 1 <= loop.time() - began < 4


@pytest.mark.docker
async def test_pull_cut_off_in_the_middle_of_a_layer_is_named(docker_engine: DockerEngine, registry: Registry) -> None:
    """The engine tries once more after 5 s, which it counts down aloud."""
    images = Images(docker_engine, SystemClock(), inactivity_s=4.0)
    registry.mode = Mode.CUT_OFF
    reference = registry.add("cut", "1", [random_layer(2 * MIB)])

    error = await refused(images, reference)
    registry.mode = Mode.PLAIN

    assert error.code == "pull_interrupted"
    assert (await images.pull(reference, None, lambda line: None)).size_bytes >= 2 * MIB


@pytest.mark.docker
@pytest.mark.parametrize("mode", [Mode.BASIC, Mode.BEARER])
async def test_private_image_needs_the_right_login(images: Images, registry: Registry, mode: Mode) -> None:
    registry.mode = mode
    reference = registry.add("private", mode, [random_layer(MIB)])
    wrong = RegistryLogin(registry.address, "renter", "wrong")
    right = RegistryLogin(f"http://{registry.address}", registry.username, registry.password)

    assert (await refused(images, reference)).code == "registry_unauthorized"
    error = await refused(images, reference, wrong)
    facts = await images.pull(reference, right, lambda line: None)

    assert error.code == "registry_unauthorized"
    assert facts.size_bytes >= MIB
    assert "correct-horse" not in repr(right)


@pytest.mark.docker
async def test_login_goes_to_no_other_registry(images: Images, registry: Registry) -> None:
    reference = registry.add("public", "1", [random_layer(MIB)])

    await images.pull(reference, RegistryLogin("registry.example.com", "renter", "secret"), lambda line: None)

    assert registry.authorizations == []


@pytest.mark.docker
async def test_rate_limit_missing_image_and_missing_registry_are_told_apart(images: Images, registry: Registry) -> None:
    reference = registry.add("there", "1", [random_layer(MIB)])

    missing = await refused(images, f"{registry.address}/there:2")
    registry.mode = Mode.RATE_LIMITED
    limited = await refused(images, reference)
    nobody = await refused(images, "127.0.0.1:9/nobody:1")

    assert (missing.code, limited.code, nobody.code) == (
        "image_not_found",
        "registry_rate_limited",
        "registry_unreachable",
    )


@pytest.mark.docker
async def test_engine_killed_during_a_pull_is_unavailable(
    images: Images, registry: Registry, docker_host: PrivateDocker
) -> None:
    registry.mode = Mode.SLOW
    registry.chunk_wait_s = 0.2
    reference = registry.add("killed", "1", [random_layer(4 * MIB)])
    pull = asyncio.ensure_future(refused(images, reference))
    await asyncio.sleep(0.5)

    await asyncio.to_thread(docker_host.kill)
    try:
        error = await pull
    finally:
        await asyncio.to_thread(docker_host.start)

    assert error.code == "engine_unavailable"
