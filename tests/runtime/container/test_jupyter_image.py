"""The image by which a machine tries Jupyter on itself: real Docker runs this machine's own Python out of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.errors import HostError
from kaalia.runtime.container import jupyter_image
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.jupyter_image import REPOSITORY, JupyterImage
from tests.support.docker_engine import PrivateDocker
from tests.support.notebooks import SERVER
from tests.support.placements import MACHINE

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

PROBE = "import ctypes, hashlib, jupyter_server, lzma, sqlite3, ssl, zmq; print(jupyter_server.__version__)"


@pytest_asyncio.fixture
async def image(docker_engine: DockerEngine) -> AsyncIterator[JupyterImage]:
    made = JupyterImage(docker_engine, MACHINE, SERVER)
    yield made
    await made.clear()


def tags(docker: PrivateDocker) -> list[str]:
    listed = docker.request("GET", "/images/json")
    return [tag for one in listed for tag in one["RepoTags"] or () if tag.startswith(f"{REPOSITORY}:")]


async def run(docker: PrivateDocker, engine: DockerEngine, tag: str, *command: str) -> str:
    """What it prints, in a container of the image that is removed."""
    body = {"Image": tag, "Cmd": list(command), "NetworkDisabled": True}
    number = docker.request("POST", "/containers/create", body)["Id"]
    try:
        docker.request("POST", f"/containers/{number}/start")
        ended = await asyncio.to_thread(docker.request, "POST", f"/containers/{number}/wait")
        told = (await engine.logs(number, "the probe", 50)).decode()
    finally:
        docker.request("DELETE", f"/containers/{number}?force=1")
    assert ended["StatusCode"] == 0, told
    return told


async def test_it_has_this_machines_python_and_jupyter_and_goes(
    docker_host: PrivateDocker, docker_engine: DockerEngine, image: JupyterImage
) -> None:
    assert await asyncio.to_thread(image.why_not) == ""
    tag = await image.ready()

    told = await run(docker_host, docker_engine, tag, "python3", "-c", PROBE)

    assert told.split()[0] in (SERVER / "kaalia-stamp").read_text()
    assert tags(docker_host) == [tag]
    await image.clear()
    assert tags(docker_host) == []


async def test_that_of_another_machine_stays_and_what_a_crash_left_goes(
    docker_host: PrivateDocker, docker_engine: DockerEngine, image: JupyterImage
) -> None:
    tag = await image.ready()

    await JupyterImage(docker_engine, "9@another", SERVER).clear()
    assert tags(docker_host) == [tag]

    await JupyterImage(docker_engine, MACHINE, SERVER).clear()
    assert tags(docker_host) == []


async def test_who_is_cancelled_in_the_middle_leaves_nothing(docker_host: PrivateDocker, image: JupyterImage) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await image.ready()

    await image.clear()

    assert tags(docker_host) == []


async def test_packages_that_are_gone_are_told_and_leave_nothing(
    docker_host: PrivateDocker, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="cannot make an image") as caught:
        await JupyterImage(docker_engine, MACHINE, tmp_path / "missing").ready()

    assert (caught.value.code, "missing" in caught.value.problem.evidence) == ("jupyter_image_failed", True)
    await JupyterImage(docker_engine, MACHINE, SERVER).clear()
    assert tags(docker_host) == []


async def test_an_engine_that_refuses_is_told_and_ends_the_writer(
    image: JupyterImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jupyter_image, "REPOSITORY", "Not/A/Name")

    with pytest.raises(HostError, match="cannot make an image") as caught:
        async with asyncio.timeout(60):
            await image.ready()

    assert caught.value.code == "jupyter_image_failed"


def test_a_machine_that_fetched_none_has_none(docker_engine: DockerEngine, tmp_path: Path) -> None:
    assert "install.sh" in JupyterImage(docker_engine, MACHINE, tmp_path).why_not()
