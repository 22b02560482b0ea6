"""A tenant's metrics in a real container: the file is there, also when it is renewed, and cannot be changed inside."""

import asyncio
from pathlib import Path

import pytest

from kaalia.api.metrics.tenants import NAME
from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.kit import put_file
from kaalia.runtime.container.runtime import ContainerRuntime
from tests.support.containers import output
from tests.support.placements import build_placement, build_spec

pytestmark = pytest.mark.docker

SCRIPT = f"""file=/.kaalia/contract/{NAME}
cat $file
(echo mine >$file) 2>/dev/null || echo refused
until grep -q second $file; do sleep 0.1; done
echo end"""


async def test_it_is_read_only_and_renewed(runtime: ContainerRuntime, tmp_path: Path) -> None:
    await runtime.create(build_placement(245, spec=build_spec(launch_mode=LaunchMode.SSH, onstart=SCRIPT, args=())))
    await asyncio.to_thread(put_file, tmp_path / "access", 245, NAME, b"first\n")
    await runtime.start(245)
    await output(runtime, 245, "refused\n")

    await asyncio.to_thread(put_file, tmp_path / "access", 245, NAME, b"second\n")

    assert "first\nrefused\n" in await output(runtime, 245, "end\n")
