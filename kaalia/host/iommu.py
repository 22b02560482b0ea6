"""Whether this machine could give GPUs to virtual machines, by what the kernel shows. Reads sysfs and tries nothing.

`root` holds /proc, /sys and /dev; tests give their own.
"""

import contextlib
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text
from kaalia.model.inventory import IommuParts

ROOT = Path("/")
_ARGUMENTS = ("intel_iommu", "amd_iommu", "iommu", "vfio", "kvm", "pci=realloc", "nvidia-drm")
_BRIDGE = 0x06
"""PCI base class: bridges may share a group with a card that is given away."""
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""UEFI's own variable; its last byte is the value."""


def read(flags: tuple[str, ...], root: Path = ROOT) -> IommuParts:
    """`flags`: of the CPU. Everything of it is a plain fact, so nothing raises."""
    groups = _entries(root / "sys/kernel/iommu_groups")
    kinds = sorted({name.rstrip("0123456789") for name in _entries(root / "sys/class/iommu")})
    arguments = [word for word in _text(root / "proc/cmdline").split() if word.startswith(_ARGUMENTS)]
    virtual = next((flag for flag in ("svm", "vmx") if flag in flags), "none")
    return IommuParts(
        enabled=bool(groups),
        groups=len(groups),
        kind=", ".join(kinds) or None,
        kernel_arguments=" ".join(arguments),
        cpu_virtualization=virtual,
        kvm=(root / "dev/kvm").exists(),
        hypervisor="hypervisor" in flags,
        vfio_loaded=(root / "sys/module/vfio_pci").is_dir(),
        drm_modeset=_modeset(root),
        secure_boot=_secure_boot(root),
    )


def group(address: str, root: Path = ROOT) -> tuple[int | None, bool | None]:
    """Of a PCI device: its group's number, and whether nothing but this card and bridges is in it."""
    link = root / "sys/bus/pci/devices" / address / "iommu_group"
    if not link.is_symlink() or not link.readlink().name.isdecimal():
        return None, None
    number = int(link.readlink().name)
    card = address.rpartition(".")[0]
    members = _entries(root / "sys/kernel/iommu_groups" / str(number) / "devices")
    others = [name for name in members if name.rpartition(".")[0] != card and not _is_bridge(name, root)]
    return number, not others if members else None


def near(address: str, root: Path = ROOT) -> tuple[int | None, str | None]:
    """Of a PCI device: its NUMA node, and the CPUs beside it."""
    folder = root / "sys/bus/pci/devices" / address
    node, cpus = _text(folder / "numa_node"), _text(folder / "local_cpulist")
    return int(node) if node.isdecimal() else None, cpus or None  # -1: none


def _is_bridge(address: str, root: Path) -> bool:
    text = _text(root / "sys/bus/pci/devices" / address / "class")
    with contextlib.suppress(ValueError):
        return int(text, 16) >> 16 == _BRIDGE
    return False


def _modeset(root: Path) -> bool | None:
    """None: the module is not loaded."""
    text = _text(root / "sys/module/nvidia_drm/parameters/modeset")
    return text == "Y" if text else None


def _secure_boot(root: Path) -> bool | None:
    """None: no UEFI, or it does not say."""
    try:
        value = (root / _SECURE_BOOT).read_bytes()
    except OSError:
        return None
    return value[-1] == 1 if value else None


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except HostError:
        return ""
