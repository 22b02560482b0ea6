"""Jupyter in images where it is hard to come by: what the kit notes of it in real containers, and where it is found."""

import asyncio
import io
import ssl
import time
import urllib.request
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest

from kaalia.contracts.notebook import read
from kaalia.errors import WorkloadError
from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.units import MIB
from tests.support.containers import address_of
from tests.support.docker_engine import PrivateDocker
from tests.support.kits import chain
from tests.support.notebooks import CONDA_ENV, CONDA_IMAGE, import_conda, import_plain
from tests.support.placements import SHARE, build_placement, build_spec

pytestmark = pytest.mark.docker

IMAGE = "kaalia/python:wheels"
INSTALLS = (("JUPYTER_TYPE", "notebook"), ("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", "/wheels"))
BROKEN = {
    "broken/notebook/__init__.py": b"",
    "broken/notebook/app.py": b"",
    "broken/notebook/__main__.py": b"raise SystemExit('no configuration')",
}
FILL_LATER = "[ ! -e /again ] || dd if=/dev/zero of=/fill bs=1M 2>/dev/null; touch /again"


@pytest.fixture(scope="module")
def image(docker_host: PrivateDocker) -> str:
    """A package that no disk of these tests can take, and one that ends at once."""
    heavy = wheel("notebook", {"notebook/heavy": bytes(100 * MIB)})
    import_plain(docker_host, IMAGE, {"wheels/notebook-9.0-py3-none-any.whl": heavy, **BROKEN})
    return IMAGE


def wheel(name: str, files: Mapping[str, bytes]) -> bytes:
    """A package that pip takes."""
    info = f"{name}-9.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, *about, f"{info}/RECORD"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for path, content in {**files, **about, f"{info}/RECORD": record.encode()}.items():
            packed.writestr(path, content)
    return buffer.getvalue()


async def begun(runtime: ContainerRuntime, contract_id: int, image: str, **changes: object) -> None:
    """An instance whose Jupyter is on its way."""
    share = replace(SHARE, memory_bytes=512 * MIB, cpu_quota_cores=2.0)
    spec = build_spec(launch_mode=LaunchMode.JUPYTER, args=(), image=image, **changes)
    placement = build_placement(contract_id, spec=spec, share=share)
    await runtime.create(placement)
    await runtime.authorize(placement.contract, chain(contract_id))
    await runtime.start(contract_id)


async def noted(runtime: ContainerRuntime, contract_id: int, kind: str) -> str:
    """The first note of this kind. On a disk without a byte left Docker reads nothing either, for a moment."""
    note = None
    for _ in range(200):
        with suppress(WorkloadError):
            note = await runtime.notebook(contract_id)
        if note is not None and note.startswith(kind):
            return note
        await asyncio.sleep(0.2)
    raise AssertionError(f"{note!r}; {await runtime.logs(contract_id, 50)}")


async def test_what_goes_wrong_is_told(runtime: ContainerRuntime, image: str) -> None:
    """Side by side, since both take their time."""
    await asyncio.gather(a_full_disk_is_told_though_it_takes_no_word(runtime, image), ends_are_told(runtime, image))


async def a_full_disk_is_told_though_it_takes_no_word(runtime: ContainerRuntime, image: str) -> None:
    await begun(runtime, 300, image, env=INSTALLS, onstart=FILL_LATER, disk_bytes=150 * MIB)
    first = await noted(runtime, 300, "failed")
    left = await runtime._engine.get_archive("C.300", "C.300", "/.kaalia-jupyter/python")

    await runtime.stop(300, 5)
    await runtime.start(300)
    again = await noted(runtime, 300, "failed")

    assert first == again == "failed jupyter_disk_full the disk of the instance is full\n"
    assert "[jupyter_disk_full]. free 500 MB" in read(first).words
    assert left is None, "what was half installed would keep it full"
    assert "kaalia: jupyter_disk_full: cannot install Jupyter" in await runtime.logs(300, 50)


async def ends_are_told(runtime: ContainerRuntime, image: str) -> None:
    """With its last words in the log."""
    await begun(runtime, 301, image, env=(("JUPYTER_TYPE", "notebook"), ("PYTHONPATH", "/broken")))
    note = await noted(runtime, 301, "failed")
    log = await runtime.logs(301, 50)

    assert note.startswith("failed jupyter_ends code 1 after ")
    assert "cannot keep Jupyter running: it ended again and again, last with code 1" in read(note).words
    assert log.count("no configuration") == log.count("Jupyter ended with code 1; it starts again in") == 4
    found = await runtime.inspect(301)
    assert found is not None
    assert found.exit_code is None, "the instance runs on"


async def test_an_environment_of_condas_that_no_path_names_is_found(
    runtime: ContainerRuntime, docker_host: PrivateDocker
) -> None:
    import_conda(docker_host)
    await begun(runtime, 302, CONDA_IMAGE, env=(("JUPYTER_TYPE", "lab"), ("JUPYTER_TOKEN", "token")))

    await noted(runtime, 302, "started server")
    status = await asyncio.to_thread(answer, f"https://{address_of(docker_host, 'C.302')}:8080/api/status")

    assert status == 200
    assert f"Jupyter (server) starts with /{CONDA_ENV}/bin/python3" in await runtime.logs(302, 50)


def answer(url: str) -> int:
    """Whatever vouches for it."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    asked = urllib.request.Request(url, headers={"Authorization": "token token"})
    for _ in range(100):
        try:
            with urllib.request.urlopen(asked, context=trust, timeout=5) as reply:
                return int(reply.status)
        except OSError:
            time.sleep(0.1)
    return 0
