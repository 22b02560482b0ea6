"""Kernel files made of real folders, links and texts, for the `root` argument of the doors in kaalia/host."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Write each path below `root` with a final line end, as the kernel does."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def link(path: Path, target: Path) -> None:
    """A relative link, as in sysfs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def pci_device(root: Path, address: str, vendor: str = "0x10de", kind: str = "0x030000", **files: str) -> Path:
    """A device on the bus; `driver` among `files` becomes the link it is in sysfs."""
    real = root / "sys/devices/pci0000:00" / address
    driver = files.pop("driver", None)
    write_files(real, {"vendor": vendor, "device": "0x2684", "class": kind, **files})
    if driver:
        folder = root / "sys/bus/pci/drivers" / driver
        folder.mkdir(parents=True, exist_ok=True)
        link(real / "driver", folder)
    link(root / "sys/bus/pci/devices" / address, real)
    return real


def gpu_on_bus(root: Path, address: str, **files: str) -> Path:
    """An RTX 4090 whose link runs at full width and, idle, at its lowest speed."""
    idle = {
        "max_link_speed": "16.0 GT/s PCIe",
        "current_link_speed": "2.5 GT/s PCIe",
        "max_link_width": "16",
        "current_link_width": "16",
        "driver": "nvidia",
    }
    return pci_device(root, address, **(idle | files))


def block_device(root: Path, path: str, model: str | None = None, partition: bool = False) -> Path:
    """A block device at sys/devices/`path`, known to sys/class/block by the last part of its path."""
    real = root / "sys/devices" / path
    write_files(real, {"size": "1000"} | ({"partition": "1"} if partition else {}))
    if model:
        write_files(real, {"device/model": model})
    link(root / "sys/class/block" / real.name, real)
    return real
