"""The runtime under test, on the private engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from tests.support.containers import ports_of
from tests.support.kits import access_in
from tests.support.placements import MACHINE


@pytest_asyncio.fixture
async def runtime(docker_engine: DockerEngine, tmp_path: Path) -> AsyncIterator[ContainerRuntime]:
    made = ContainerRuntime(
        docker_engine,
        MACHINE,
        ports=ports_of(docker_engine),
        access=access_in(tmp_path),
        sandboxes=Sandboxes(docker_engine, MACHINE),
    )
    yield made
    await made.close()
