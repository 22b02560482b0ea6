"""GPUs from a simulated driver and a bus made of real files."""

from pathlib import Path

import pytest

from kaalia.capability import gpu
from kaalia.capability.gaps import Gaps
from kaalia.host.nvml import NvmlProbe
from kaalia.model.gpu_use import GpuProcess
from kaalia.model.machine import Missing
from tests.capability.conftest import MakeProbe
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, without
from tests.support.sysfs import gpu_on_bus, pci_device, write_files

NO_DRIVER = NvmlProbe(env={"PATH": "/usr/bin:/bin"})


async def test_a_machine_without_gpu_says_so(tmp_path: Path) -> None:
    gaps = Gaps()

    gpus, driver, users = await gpu.collect(NO_DRIVER, tmp_path, gaps)

    assert (gpus, driver, users) == ((), None, None)
    assert gaps.missing == [Missing("driver", "this machine has no NVIDIA GPU on its PCI bus and no NVIDIA driver")]


async def test_gpus_without_driver_are_pointed_out(tmp_path: Path) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0")
    gpu_on_bus(tmp_path, "0000:41:00.0")
    gaps = Gaps()

    gpus, _, _ = await gpu.collect(NO_DRIVER, tmp_path, gaps)

    assert gpus == ()
    (entry,) = gaps.missing
    assert entry.reason.startswith("2 NVIDIA GPU(s) on the PCI bus, but no NVIDIA driver: ")


async def test_a_failing_driver_gives_its_reason(tmp_path: Path, simulated: MakeProbe) -> None:
    gaps = Gaps()

    gpus, driver, users = await gpu.collect(
        simulated(machine("2xRTX_4090") + fault("nvmlInitWithFlags", "error 999")), tmp_path, gaps
    )

    assert (gpus, driver, users) == ((), None, None)
    assert gaps.missing == [Missing("gpus", "cannot initialise NVML: NVMLError_Unknown")]


async def test_a_link_that_the_driver_does_not_tell_comes_from_the_bus(tmp_path: Path, simulated: MakeProbe) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0", max_link_width="8", current_link_width="4")
    gaps = Gaps()

    (only,), _, _ = await gpu.collect(
        simulated(without(without(machine("1xRTX_4090"), "pci_width"), "pci_width_max")), tmp_path, gaps
    )

    assert (only.pci_width_max, only.pci_width_current, only.pci_gen_max) == (8, 4, 4)
    assert gaps.missing == []


async def test_what_neither_driver_nor_bus_tells_stays_missing(tmp_path: Path, simulated: MakeProbe) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0", current_link_speed="Unknown")
    gaps = Gaps()

    (only,), _, _ = await gpu.collect(simulated(without(machine("1xRTX_4090"), "pci_gen")), tmp_path, gaps)

    assert only.pci_gen_current is None
    assert gaps.missing == [Missing("gpus.0.pci_gen_current", "NVMLError_NotSupported")]


async def test_another_device_at_the_address_of_a_simulated_gpu_is_not_asked(
    tmp_path: Path, simulated: MakeProbe
) -> None:
    pci_device(tmp_path, "0000:01:00.0", vendor="0x8086", kind="0x020000", max_link_width="4")
    gaps = Gaps()

    (only,), _, _ = await gpu.collect(simulated(without(machine("1xRTX_4090"), "pci_width_max")), tmp_path, gaps)

    assert only.pci_width_max is None
    assert [entry.field for entry in gaps.missing] == ["gpus.0.pci_width_max"]


@pytest.mark.parametrize(("driver", "words"), [("vfio-pci", "bound to vfio-pci"), ("", "bound to no driver")])
async def test_a_gpu_that_only_the_bus_shows_is_named(
    tmp_path: Path, simulated: MakeProbe, driver: str, words: str
) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0")
    gpu_on_bus(tmp_path, "0000:81:00.0", driver=driver)
    gaps = Gaps()

    gpus, _, _ = await gpu.collect(simulated(machine("1xRTX_4090")), tmp_path, gaps)

    assert [entry.pci_address for entry in gpus] == ["0000:01:00.0"]
    (entry,) = gaps.missing
    assert entry.field == "gpus.0000:81:00.0"
    assert words in entry.reason


async def test_a_lost_gpu_is_named_once(tmp_path: Path, simulated: MakeProbe) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0")
    gpu_on_bus(tmp_path, "0000:11:00.0")
    gaps = Gaps()

    gpus, _, _ = await gpu.collect(simulated(machine("2xRTX_4090") + setting(1, "lost_after", 0)), tmp_path, gaps)

    assert [entry.index for entry in gpus] == [0]
    assert gaps.missing == [Missing("gpus.1", "cannot read its handle: NVMLError_GpuIsLost")]


async def test_processes_are_found_in_their_containers_and_those_that_ended_are_not_told(
    tmp_path: Path, simulated: MakeProbe
) -> None:
    write_files(tmp_path, {"proc/70/cgroup": f"0::/docker/{'a' * 64}\n", "proc/70/comm": "python3\n"})
    write_files(tmp_path, {"proc/71/cgroup": "0::/user.slice\n", "proc/71/comm": "Xorg\n"})
    text = setting(0, "processes", "70 99") + setting(0, "graphics_processes", "71") + machine("1xRTX_4090")

    _, _, users = await gpu.collect(simulated(text), tmp_path, Gaps())

    uuid = gpu_uuid(0)
    assert users == (GpuProcess(uuid, 70, "python3", ("a" * 64,)), GpuProcess(uuid, 71, "Xorg"))
