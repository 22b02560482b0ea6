"""The runtime under test, on the private engine."""

import pytest

from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.runtime import ContainerRuntime
from tests.support.placements import MACHINE


@pytest.fixture
def runtime(docker_engine: DockerEngine) -> ContainerRuntime:
    return ContainerRuntime(docker_engine, MACHINE)
