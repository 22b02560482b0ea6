"""The GPUs: what the driver tells, completed by the PCI bus. Refuses to invent a GPU that has no identity."""

import asyncio
from dataclasses import replace
from pathlib import Path

from kaalia.capability.gaps import Gaps
from kaalia.errors import HostError
from kaalia.host import pci, system
from kaalia.host.nvml import NvmlProbe, NvmlReading
from kaalia.host.pci import PciDevice
from kaalia.model.gpu_health import NvmlState
from kaalia.model.gpu_use import GpuProcess
from kaalia.model.machine import Gpu, GpuDriver, Missing

Found = tuple[tuple[Gpu, ...], GpuDriver | None, tuple[GpuProcess, ...] | None]

_LINK_FIELDS = {
    "pci_gen_max": "gen_max",
    "pci_gen_current": "gen_current",
    "pci_width_max": "width_max",
    "pci_width_current": "width_current",
}
"""Field of Gpu -> field of PciDevice, for drivers that do not tell the link."""


async def collect(probe: NvmlProbe, root: Path, gaps: Gaps) -> Found:
    """The GPUs in NVML's order, their driver, and who uses them (None: nobody could be asked).

    Why one is absent stands in `gaps`.
    """
    return await understand(await probe.read(), root, gaps)


async def understand(reading: NvmlReading, root: Path, gaps: Gaps) -> Found:
    """As `collect`, of what was read already."""
    processes = await asyncio.to_thread(_users, reading, root) if reading.state is NvmlState.OK else None
    return await asyncio.to_thread(_complete, reading, root, gaps), reading.driver, processes


def _users(reading: NvmlReading, root: Path) -> tuple[GpuProcess, ...]:
    """The processes that are still there, at once after the reading: ids are given anew."""
    found = []
    for uuid, pid in reading.processes:
        try:
            name, containers = system.process_name(pid, root), system.process_containers(pid, root)
        except HostError:
            continue
        found.append(GpuProcess(uuid, pid, name, containers))
    return tuple(found)


def _complete(reading: NvmlReading, root: Path, gaps: Gaps) -> tuple[Gpu, ...]:
    on_bus = pci.nvidia_gpus(root)
    if reading.state is not NvmlState.OK:
        # Only the second is a fault: a machine without GPUs is complete as it is.
        has_none = reading.state is NvmlState.NO_DRIVER and not on_bus
        gaps.note("driver" if has_none else "gpus", _why_none(reading, on_bus))
        return ()
    _note_unseen(reading, on_bus, gaps)
    missing = list(reading.missing)
    gpus = tuple(_with_link(gpu, missing, root) for gpu in reading.gpus)
    gaps.missing += missing
    return gpus


def _why_none(reading: NvmlReading, on_bus: tuple[PciDevice, ...]) -> str:
    if reading.state is not NvmlState.NO_DRIVER:
        return reading.reason
    if not on_bus:
        return "this machine has no NVIDIA GPU on its PCI bus and no NVIDIA driver"
    return f"{len(on_bus)} NVIDIA GPU(s) on the PCI bus, but no NVIDIA driver: {reading.reason}"


def _note_unseen(reading: NvmlReading, on_bus: tuple[PciDevice, ...], gaps: Gaps) -> None:
    """GPUs that the bus shows and the driver does not: fallen off, or given to another driver (vfio-pci)."""
    lost = any(entry.field.count(".") == 1 and entry.field.startswith("gpus.") for entry in reading.missing)
    seen = {gpu.pci_address for gpu in reading.gpus}
    if lost or None in seen:  # named by index already, or not comparable
        return
    for device in on_bus:
        if device.address not in seen:
            driver = device.driver or "no driver"
            gaps.note(
                f"gpus.{device.address}", f"on the PCI bus, but not shown by the NVIDIA driver (bound to {driver})"
            )


def _with_link(gpu: Gpu, missing: list[Missing], root: Path) -> Gpu:
    """Fill link fields that NVML did not tell from sysfs, and forget that they were missing."""
    absent = [field for field in _LINK_FIELDS if getattr(gpu, field) is None]
    if not absent or gpu.pci_address is None:
        return gpu
    try:
        device = pci.read(gpu.pci_address, root)
    except HostError:
        return gpu
    if device.vendor != pci.NVIDIA:  # a simulated GPU's address may be that of another device
        return gpu
    values = {field: getattr(device, _LINK_FIELDS[field]) for field in absent}
    found = {field: value for field, value in values.items() if value is not None}
    filled = {f"gpus.{gpu.index}.{field}" for field in found}
    missing[:] = [entry for entry in missing if entry.field not in filled]
    return replace(gpu, **found)
