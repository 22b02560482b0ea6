"""What `systemctl daemon-reload` does to GPUs of running containers is told within a minute, and no tenant notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rented import destroy, problems, process, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import Hook
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.docker

DEVICES = Path("/sys/fs/cgroup/devices/docker")


@pytest.fixture
def stack(docker_host: PrivateDocker, gpu_hook: Hook, tmp_path: Path) -> Iterator[Stack]:
    if not DEVICES.parent.exists():
        pytest.skip("the stand-in for NVIDIA's hook gives rights by cgroups of the first version")
    gpu_hook.make_nodes()
    try:
        with running_stack(docker_host, tmp_path, config={"intervals": {"resync_s": 1.0}}) as made:
            made.list_machine()
            yield made
    finally:
        gpu_hook.behave()


def test_a_gpu_that_a_container_may_no_longer_use_is_told(stack: Stack) -> None:
    instance = rent(stack)
    stack.wait_status(instance, "running")
    before = process(stack, instance)
    rules = DEVICES / str(stack.engine.inspect(f"C.{instance}")["Id"])
    assert "c 195:*" in (rules / "devices.list").read_text()

    (rules / "devices.deny").write_text("c 195:* rw")

    wait_until("the loss to be told", lambda: "gpu_lost_in_container" in problems(stack), 30)
    doctor = " ".join(stack.kaalia("doctor", "--socket", str(stack.socket)).stdout.split())
    assert f"C.{instance} lost the right to /dev/nvidia0 while it ran" in doctor
    wait_until("its renter to be told", lambda: "[gpu_lost_in_container]" in words(stack, instance), 30)
    assert f"vastai reboot instance {instance}" in words(stack, instance)
    assert process(stack, instance) == before
    assert not (Path("/proc") / str(before[0]) / "root/dev/nvidia1").exists()
    (rules / "devices.allow").write_text("c 195:* rw")
    wait_until("it to be over", lambda: "gpu_lost_in_container" not in problems(stack), 30)
    wait_until("its renter to be told of that", lambda: "warning" not in words(stack, instance), 30)
    destroy(stack, instance)


def words(stack: Stack, instance_id: int) -> str:
    return str((stack.instance(instance_id) or {}).get("status_msg") or "")
