"""What the kernel says of a GPU reaches the host within seconds, and no tenant notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.client import LocalClient
from tests.e2e.rented import SLEEP, destroy, problems, process, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.kmsg import FakeKernelLog
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = pytest.mark.docker


@pytest.fixture
def kernel() -> Iterator[FakeKernelLog]:
    assert Path("/dev/kmsg").is_fifo(), "the sandbox has a pipe there; the machine's own log is no toy"
    made = FakeKernelLog(Path("/"))
    yield made
    made.close()


@pytest.fixture
def stack(docker_host: PrivateDocker, tmp_path: Path) -> Iterator[Stack]:
    with running_stack(docker_host, tmp_path) as made:
        made.list_machine()
        yield made


def test_a_gpu_that_falls_off_the_bus_is_told_and_its_tenant_left_alone(stack: Stack, kernel: FakeKernelLog) -> None:
    instance = rent(stack)
    stack.wait_status(instance, "running")
    before = process(stack, instance)
    gpu = LocalClient(stack.socket).report().gpus[0]
    assert gpu.pci_address is not None

    kernel.say(f"NVRM: Xid (PCI:{gpu.pci_address[:-2]}): 79, pid=1, name=python, GPU has fallen off the bus.")

    wait_until("the fault to be told", lambda: "gpu_xid_79" in problems(stack), 10)
    shown = stack.kaalia("status", "--socket", str(stack.socket))
    assert f"cannot count on GPU 0 ({gpu.name}" in " ".join(shown.stdout.split())
    assert process(stack, instance) == before
    destroy(stack, instance)


def test_what_is_broken_leaves_the_offers_and_comes_back(stack: Stack, kernel: FakeKernelLog) -> None:
    instance = rent(stack)
    stack.wait_status(instance, "running")
    before = process(stack, instance)
    mine, other = [(gpu.pci_address or "")[:-2] for gpu in LocalClient(stack.socket).report().gpus]
    lost = "NVRM: Xid (PCI:{}): 79, pid=1, name=python, GPU has fallen off the bus."

    kernel.say(lost.format(mine))

    wait_until("the tenant to be told", lambda: "[gpu_xid_79]" in _words(stack, instance), 15)
    assert stack.rentable_offer(1) is not None
    kernel.say(lost.format(other))
    wait_until("the other GPU to leave the offers", lambda: stack.rentable_offer() is None, 15)
    kernel.say(f"NVRM: Xid (PCI:{other}): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")
    wait_until("the other GPU to be offered again", lambda: stack.rentable_offer(1) is not None, 15)
    assert process(stack, instance) == before
    destroy(stack, instance)


def _words(stack: Stack, instance: int) -> str:
    return str((stack.instance(instance) or {}).get("status_msg"))


def test_a_machine_of_two_models_rents_out_each_apart(docker_host: PrivateDocker, tmp_path: Path) -> None:
    with running_stack(docker_host, tmp_path, "2xRTX_3090+1xRTX_4090") as mixed:
        mixed.list_machine()
        names = {gpu.uuid: gpu.name for gpu in LocalClient(mixed.socket).report().gpus}
        offers = mixed.renter_api.call("POST", "/api/v0/bundles/", {"rentable": {"eq": True}})[1]["offers"]
        told = sorted((one["gpu_name"].removesuffix(" (simulated)"), one["num_gpus"]) for one in offers)
        whole = next(one["id"] for one in offers if one["num_gpus"] == 2)
        other = next(one["id"] for one in offers if "4090" in one["gpu_name"])
        instances = [mixed.rent(offer, **SLEEP) for offer in (other, whole)]
        for instance in instances:
            mixed.wait_status(instance, "running")
        given = [[names[uuid] for uuid in gpus_of(mixed, instance)] for instance in instances]

    assert told == [("RTX 3090", 1), ("RTX 3090", 1), ("RTX 3090", 2), ("RTX 4090", 1)]
    assert given == [["NVIDIA GeForce RTX 4090"], ["NVIDIA GeForce RTX 3090"] * 2]


def gpus_of(stack: Stack, instance: int) -> list[str]:
    """By Docker's own word."""
    requests = stack.engine.inspect(f"C.{instance}")["HostConfig"]["DeviceRequests"]
    return [uuid for request in requests for uuid in request["DeviceIDs"]]
