"""One stack for all end-to-end tests of a session, on the private engine, with two simulated GPUs."""

from collections.abc import Iterator

import pytest

from tests.e2e.flows import World
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.scene import simulated_gpus
from tests.support.stack import Stack, StackOptions


@pytest.fixture(scope="module")
def world(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(folder, StackOptions(docker_host, gpu_env=simulated_gpus(folder, "2xRTX_4090")))
    try:
        stack.up()
        yield World(stack, DEMO_IMAGE)
        stack.remove_workloads()
    finally:
        stack.close()
