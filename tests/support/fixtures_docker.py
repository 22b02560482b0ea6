"""Fixtures around the private Docker Engine: one for the whole run, with the demo images in it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from kaalia.runtime.container.engine import DockerEngine
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import Hook, install_hook
from tests.support.images import import_demo


@pytest.fixture(scope="session")
def gpu_hook(tmp_path_factory: pytest.TempPathFactory) -> Hook:
    """The stand-in for NVIDIA's hook, which the private engine finds first in its PATH."""
    return install_hook(tmp_path_factory.mktemp("hook"))


@pytest.fixture(scope="session")
def docker_host(tmp_path_factory: pytest.TempPathFactory, gpu_hook: Hook) -> Iterator[PrivateDocker]:
    """A running private dockerd. A test that kills it starts it again."""
    options = ["--max-download-attempts=1"]
    with PrivateDocker(tmp_path_factory.mktemp("d"), extra_path=gpu_hook.folder, options=options) as engine:
        import_demo(engine)
        yield engine


@pytest_asyncio.fixture
async def docker_engine(docker_host: PrivateDocker) -> AsyncIterator[DockerEngine]:
    """kaalia's own door to that engine; what the test left behind is removed."""
    engine = DockerEngine(docker_host.socket)
    yield engine
    engine.close()
    docker_host.remove_containers()
    docker_host.remove_networks()
