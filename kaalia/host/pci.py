"""PCI devices as sysfs shows them, by address. Works without any driver, so it can tell a GPU whose driver is missing.

`root` is the file system that holds /sys; tests give their own.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable

ROOT = Path("/")
NVIDIA = 0x10DE
DISPLAY_CLASS = 0x03
"""PCI base class of display controllers: VGA and 3D (compute boards without outputs)."""

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""Transfer rate of a lane in GT/s -> PCI Express generation (PCI-SIG base specifications)."""


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A device on the bus. None: sysfs does not tell it (not PCI Express, or the link is down)."""

    address: str
    vendor: int
    device: int
    class_code: int
    driver: str | None
    gen_max: int | None
    gen_current: int | None
    width_max: int | None
    width_current: int | None

    @property
    def is_display(self) -> bool:
        return self.class_code >> 16 == DISPLAY_CLASS


def read(address: str, root: Path = ROOT) -> PciDevice:
    """The device at `address` (0000:65:00.0). Raises HostError `pci_address_invalid` or `unreadable`."""
    if not _ADDRESS.fullmatch(address):
        raise HostError("pci_address_invalid", f"cannot look up PCI device {address!r}: expected 0000:65:00.0")
    folder = root / "sys/bus/pci/devices" / address
    return PciDevice(
        address,
        vendor=_hex(folder / "vendor"),
        device=_hex(folder / "device"),
        class_code=_hex(folder / "class"),
        driver=_driver(folder),
        gen_max=_generation(folder / "max_link_speed"),
        gen_current=_generation(folder / "current_link_speed"),
        width_max=_width(folder / "max_link_width"),
        width_current=_width(folder / "current_link_width"),
    )


def link_best(address: str, root: Path = ROOT) -> tuple[int | None, int | None]:
    """Generation and lanes that both the device at `address` and the port above it can do; None: sysfs does not tell.

    A card of 16 lanes in a slot of 8 has 8 at best: that is no fault.
    """
    folder = root / "sys/bus/pci/devices" / address
    ends = (folder, folder.resolve().parent)
    gens = [found for end in ends if (found := _generation(end / "max_link_speed")) is not None]
    widths = [found for end in ends if (found := _width(end / "max_link_width")) is not None]
    return min(gens, default=None), min(widths, default=None)


def nvidia_gpus(root: Path = ROOT) -> tuple[PciDevice, ...]:
    """Every NVIDIA display device on the bus, by address; their audio and USB functions are not GPUs."""
    folder = root / "sys/bus/pci/devices"
    found: list[PciDevice] = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            device = read(entry.name, root) if _hex(entry / "vendor") == NVIDIA else None
        except HostError:  # it went away between listing and reading, or it is no plain address
            continue
        if device is not None and device.is_display:
            found.append(device)
    return tuple(found)


def _hex(path: Path) -> int:
    text = read_text(path)
    try:
        return int(text, 16)
    except ValueError:
        raise unreadable(str(path), f"{text!r} is not a number") from None


def _driver(folder: Path) -> str | None:
    link = folder / "driver"
    return link.readlink().name if link.is_symlink() else None


def _generation(path: Path) -> int | None:
    """`16.0 GT/s PCIe` -> 4; older kernels write `16 GT/s`."""
    match = re.match(r"(\d+(?:\.\d+)?) GT/s", _optional(path))
    return _GENERATIONS.get(float(match[1])) if match else None


def _width(path: Path) -> int | None:
    """Lanes. 0 and 255 are what the kernel writes when there is no link."""
    text = _optional(path)
    lanes = int(text) if text.isdecimal() else 0
    return lanes if 0 < lanes <= 32 else None


def _optional(path: Path) -> str:
    try:
        return read_text(path)
    except HostError:
        return ""
