"""PCI devices from sysfs trees made of real files and links."""

from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host import pci
from tests.support.sysfs import gpu_on_bus, pci_device, write_files


def test_reads_link_and_driver(tmp_path: Path) -> None:
    gpu_on_bus(tmp_path, "0000:65:00.0")

    device = pci.read("0000:65:00.0", tmp_path)

    assert (device.vendor, device.device, device.class_code) == (0x10DE, 0x2684, 0x030000)
    assert (device.gen_max, device.gen_current) == (4, 1)
    assert (device.width_max, device.width_current) == (16, 16)
    assert device.driver == "nvidia"
    assert device.is_display


@pytest.mark.parametrize(
    ("text", "generation"),
    [
        ("2.5 GT/s PCIe", 1),
        ("5.0 GT/s PCIe", 2),
        ("8.0 GT/s PCIe", 3),
        ("8 GT/s", 3),
        ("16.0 GT/s PCIe", 4),
        ("32.0 GT/s PCIe", 5),
        ("64.0 GT/s PCIe", 6),
        ("Unknown", None),
        ("Unknown speed", None),
        ("", None),
        ("7.0 GT/s PCIe", None),
    ],
)
def test_speed_is_told_as_a_generation(tmp_path: Path, text: str, generation: int | None) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0", current_link_speed=text)

    assert pci.read("0000:01:00.0", tmp_path).gen_current == generation


@pytest.mark.parametrize(
    ("text", "lanes"), [("1", 1), ("16", 16), ("0", None), ("255", None), ("63", None), ("", None)]
)
def test_no_link_is_no_width(tmp_path: Path, text: str, lanes: int | None) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0", current_link_width=text)

    assert pci.read("0000:01:00.0", tmp_path).width_current == lanes


def test_a_device_without_link_files_has_no_link(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:00:02.0", vendor="0x1af4", kind="0x020000")

    device = pci.read("0000:00:02.0", tmp_path)

    assert (device.gen_max, device.width_max, device.driver) == (None, None, None)
    assert not device.is_display


@pytest.mark.parametrize("address", ["../../../etc/passwd", "65:00.0", "0000:65:00.8", "0000:65:00.0/..", "", "GPU-1"])
def test_anything_but_an_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(HostError) as caught:
        pci.read(address, tmp_path)

    assert caught.value.code == "pci_address_invalid"


def test_an_absent_device_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"0000:65:00\.0") as caught:
        pci.read("0000:65:00.0", tmp_path)

    assert caught.value.code == "unreadable"


def test_lists_nvidia_gpus_only(tmp_path: Path) -> None:
    gpu_on_bus(tmp_path, "0000:81:00.0")
    gpu_on_bus(tmp_path, "0000:01:00.0")
    pci_device(tmp_path, "0000:41:00.0", kind="0x030200")  # a compute board without outputs
    pci_device(tmp_path, "0000:01:00.1", kind="0x040300")  # the GPU's audio function
    pci_device(tmp_path, "0000:02:00.0", vendor="0x1002")  # another maker's GPU
    pci_device(tmp_path, "0000:03:00.0", vendor="what?")

    assert [device.address for device in pci.nvidia_gpus(tmp_path)] == ["0000:01:00.0", "0000:41:00.0", "0000:81:00.0"]


def test_a_machine_without_pci_has_no_gpus(tmp_path: Path) -> None:
    assert pci.nvidia_gpus(tmp_path) == ()


def test_reads_the_bus_of_this_machine() -> None:
    folder = Path("/sys/bus/pci/devices")
    addresses = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []

    assert [pci.read(address).address for address in addresses] == addresses


def test_the_best_of_a_link_is_what_both_its_ends_can(tmp_path: Path) -> None:
    gpu_on_bus(tmp_path, "0000:01:00.0")
    above = (tmp_path / "sys/bus/pci/devices/0000:01:00.0").resolve().parent
    assert pci.link_best("0000:01:00.0", tmp_path) == (4, 16)

    write_files(above, {"max_link_speed": "8.0 GT/s PCIe", "max_link_width": "8"})
    assert pci.link_best("0000:01:00.0", tmp_path) == (3, 8)

    write_files(above, {"max_link_speed": "64.0 GT/s PCIe", "max_link_width": "255"})
    assert pci.link_best("0000:01:00.0", tmp_path) == (4, 16)
    assert pci.link_best("0000:99:00.0", tmp_path) == (None, None)


def test_others_on_the_bus_are_passed_by(tmp_path: Path) -> None:
    gpu_on_bus(tmp_path, "0000:41:00.0")
    pci_device(tmp_path, "0000:02:00.0", vendor="0x8086")
    pci_device(tmp_path, "0000:41:00.1", kind="0x040300")
    (tmp_path / "sys/bus/pci/devices/broken").mkdir()

    assert [gpu.address for gpu in pci.nvidia_gpus(tmp_path)] == ["0000:41:00.0"]
