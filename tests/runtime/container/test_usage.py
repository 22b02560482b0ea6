"""The kernel's own files tell what a real container uses, wherever Docker put its cgroup."""

import asyncio

import pytest

from kaalia.host.cgroup import usages
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.units import MIB
from tests.support.placements import SHARE, build_placement

pytestmark = pytest.mark.docker


async def test_a_running_container_is_found_and_a_stopped_one_is_not(runtime: ContainerRuntime) -> None:
    container_id = await runtime.create(build_placement(51))
    await runtime.start(51)

    found = await asyncio.to_thread(usages, [container_id, "f" * 64])

    assert found.keys() == {container_id}
    used = found[container_id]
    assert used.cpu_s is not None
    assert 0 < used.cpu_s < 60
    assert used.memory_bytes is not None
    assert 0 < used.memory_bytes <= SHARE.memory_bytes <= 128 * MIB
    assert used.oom_kills == 0
    await runtime.stop(51, 0)
    assert await asyncio.to_thread(usages, [container_id]) == {}
