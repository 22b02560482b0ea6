"""GPUs of a container, by the hook of the engine's NVIDIA runtime."""

import pytest

from kaalia.runtime.base import ObservedState
from kaalia.runtime.container.runtime import ContainerRuntime
from tests.support.builders import build_gpus
from tests.support.containers import output, refused
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import Hook
from tests.support.images import rootfs
from tests.support.placements import build_placement, build_spec

pytestmark = pytest.mark.docker


async def test_gpus_reach_docker_by_uuid(runtime: ContainerRuntime, gpu_hook: Hook) -> None:
    uuids = tuple(gpu.uuid for gpu in build_gpus(2))
    env = (("NVIDIA_VISIBLE_DEVICES", "all"), ("NVIDIA_DRIVER_CAPABILITIES", "all"))
    spec = build_spec(gpu_count=2, env=env)

    container_id = await runtime.create(build_placement(56, spec=spec, gpu_uuids=uuids))
    running = (await runtime.start(56)).observed

    record = gpu_hook.containers()[container_id]
    assert record["visible_devices"] == ",".join(uuids)
    assert {"compute", "utility", "video"} <= set(str(record["driver_capabilities"]).split(","))
    assert running.gpu_uuids == uuids


async def test_neither_renter_nor_image_chooses_further_devices(
    runtime: ContainerRuntime, docker_host: PrivateDocker, gpu_hook: Hook
) -> None:
    """The hook obeys variables of the container's environment, wherever they come from."""
    greedy = ("NVIDIA_IMEX_CHANNELS", "NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES", "NVIDIA_MOFED")
    changes = [f"ENV {name}=all" for name in (*greedy, "NVIDIA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA")]
    docker_host.import_image("kaalia/greedy:latest", rootfs(), ["ENV PATH=/bin", *changes])
    uuid = build_gpus(1)[0].uuid
    script = "env | grep NVIDIA_ | sort; echo end"
    env = (*((name, "0") for name in greedy), ("NVIDIA_VISIBLE_DEVICES", "all"))
    spec = build_spec(image="kaalia/greedy:latest", args=("sh", "-c", script), gpu_count=1, env=env)

    container_id = await runtime.create(build_placement(70, spec=spec, gpu_uuids=(uuid,)))
    await runtime.start(70)

    seen = await output(runtime, 70, "end\n")
    record = gpu_hook.containers()[container_id]
    assert not [name for name in greedy if name in seen], seen
    assert not set(greedy).intersection(record["nvidia_env"])
    assert {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA"} <= set(record["nvidia_env"])
    assert record["visible_devices"] == uuid


async def test_gpu_hook_that_fails_is_named(runtime: ContainerRuntime, gpu_hook: Hook) -> None:
    spec = build_spec(gpu_count=1)
    await runtime.create(build_placement(57, spec=spec, gpu_uuids=(build_gpus(1)[0].uuid,)))
    gpu_hook.fail("nvidia-container-cli: device error: GPU is lost")
    try:
        error = await refused(runtime.start(57))
    finally:
        gpu_hook.behave()

    assert error.code == "gpu_hook_failed"
    assert "GPU is lost" in error.problem.evidence
    assert (await runtime.start(57)).observed.state is ObservedState.RUNNING


async def test_cpu_only_container_sees_no_gpu(runtime: ContainerRuntime, gpu_hook: Hook) -> None:
    spec = build_spec(
        args=("sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES; echo end"), env=(("NVIDIA_VISIBLE_DEVICES", "all"),)
    )
    container_id = await runtime.create(build_placement(58, spec=spec))
    await runtime.start(58)

    assert await output(runtime, 58, "end\n") == "void\nend\n"
    assert container_id not in gpu_hook.containers()
