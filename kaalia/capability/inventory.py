"""The inventory: what stays of this machine, read seldom. What cannot be read is absent with its reason."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from kaalia.capability.gaps import Gaps
from kaalia.errors import HostError
from kaalia.host import drives, iommu, local_drives, processors, smbios, software
from kaalia.host.nvml_parts import PartsReading
from kaalia.model.inventory import CpuParts, Drive, GpuParts, Inventory, MemoryParts, SoftwareParts
from kaalia.model.machine import Gpu, MachineReport, Missing

DRIVES_S = 10.0
"""A report waits no longer for drives that hang; who says that they do is `health`."""
_SHARED = ("cores", "memory_bus_bits", "nvlinks", "nvlink_version")
"""Facts of the inventory that the marketplace derives figures from."""


async def collect(report: MachineReport, gpus: PartsReading, root: Path, now: datetime) -> Inventory:
    """Of the same moment as `report`. 10-30 ms, and as long as smartctl takes for the drives."""
    gaps = Gaps()
    gaps.missing += gpus.missing
    device = report.disk.device if report.disk else None
    local, found, programs = await asyncio.gather(
        asyncio.to_thread(_local, report, gpus.gpus, root, gaps),
        _drives(device, root, gaps),
        _programs(gaps, has_gpus=bool(report.gpus)),
    )
    return replace(
        local,
        read_at=now,
        drives=found,
        gpu_pairs=gpus.pairs,
        software=replace(local.software, container_toolkit=programs[0], fabric_manager=programs[1]),
        missing=tuple(sorted(gaps.missing, key=lambda entry: (entry.field, entry.reason))),
    )


def with_parts(report: MachineReport, parts: Sequence[GpuParts]) -> MachineReport:
    """With what the newest inventory knows of the GPUs that the report has."""
    known = {one.uuid: one for one in parts}
    return replace(report, gpus=tuple(_joined(gpu, known.get(gpu.uuid)) for gpu in report.gpus))


def _joined(gpu: Gpu, parts: GpuParts | None) -> Gpu:
    return gpu if parts is None else replace(gpu, **{field: getattr(parts, field) for field in _SHARED})


def _local(report: MachineReport, gpus: Sequence[GpuParts], root: Path, gaps: Gaps) -> Inventory:
    """What sysfs, procfs and the firmware's tables tell; on a thread."""
    return Inventory(
        read_at=report.collected_at,
        boot_id=report.system.boot_id,
        cpu=_cpu(root, gaps),
        memory=_memory(root, gaps),
        nics=software.nics(root),
        gpus=_on_bus(report, gpus, root),
        iommu=iommu.read(report.cpu.flags, root),
        software=SoftwareParts(
            kernel_module=gaps.read("software.kernel_module", lambda: software.kernel_module(root)),
            kernel_module_open=gaps.read("software.kernel_module_open", lambda: software.kernel_module_open(root)),
            libc=software.libc(),
            python=software.python(),
            cgroup_mode=gaps.read("software.cgroup_mode", lambda: software.cgroup_mode(root)),
            init=gaps.read("software.init", lambda: software.init(root)),
        ),
    )


def _cpu(root: Path, gaps: Gaps) -> CpuParts:
    block = gaps.read("cpu", lambda: processors.first_block(root)) or {}
    return CpuParts(
        vendor=gaps.read("cpu.vendor", lambda: processors.field(block, "vendor_id", "CPU implementer")),
        family=gaps.read("cpu.family", lambda: processors.number(block, "cpu family", "CPU architecture")),
        model_number=gaps.read("cpu.model_number", lambda: processors.number(block, "model", "CPU part")),
        stepping=gaps.read("cpu.stepping", lambda: processors.number(block, "stepping", "CPU revision")),
        microcode=gaps.read("cpu.microcode", lambda: processors.field(block, "microcode")),
        sockets=gaps.read("cpu.sockets", lambda: processors.sockets(root)),
        threads_per_core=gaps.read("cpu.threads_per_core", lambda: processors.threads_per_core(root)),
        min_ghz=gaps.read("cpu.min_ghz", lambda: processors.min_ghz(root)),
        current_ghz=gaps.read("cpu.current_ghz", lambda: processors.current_ghz(block)),
        governor=gaps.read("cpu.governor", lambda: processors.governor(root)),
        numa_nodes=gaps.read("cpu.numa_nodes", lambda: processors.numa_nodes(root)) or (),
        caches=gaps.read("cpu.caches", lambda: processors.caches(root)) or (),
    )


def _memory(root: Path, gaps: Gaps) -> MemoryParts:
    found = gaps.read("memory.modules", lambda: smbios.memory(root)) or MemoryParts()
    return replace(found, swap_bytes=gaps.read("memory.swap_bytes", lambda: smbios.swap_bytes(root)))


def _on_bus(report: MachineReport, gpus: Sequence[GpuParts], root: Path) -> tuple[GpuParts, ...]:
    """A simulated GPU stands on no bus: what is at its address is another device."""
    addresses = {gpu.uuid: gpu.pci_address for gpu in report.gpus}
    if report.driver is None or report.driver.simulated:
        return tuple(gpus)
    return tuple(_placed(one, addresses.get(one.uuid), root) for one in gpus)


def _placed(gpu: GpuParts, address: str | None, root: Path) -> GpuParts:
    if address is None:
        return gpu
    node, cpus = iommu.near(address, root)
    number, alone = iommu.group(address, root)
    return replace(gpu, numa_node=node, cpus_near=cpus, iommu_group=number, iommu_group_alone=alone)


async def _drives(device: str | None, root: Path, gaps: Gaps) -> tuple[Drive, ...]:
    found = await asyncio.to_thread(local_drives.find, root, device)
    if not found:
        gaps.note("drives", "the kernel shows no local disk of its own")
    try:
        told = await drives.drives(DRIVES_S)
    except HostError as error:
        gaps.note("drives", error)
        return found
    if told is None:
        gaps.note("drives", "smartctl is not installed: apt install smartmontools")
        return found
    return tuple(_asked(drive, told, gaps) for drive in found)


def _asked(drive: Drive, told: tuple[drives.Drive, ...], gaps: Gaps) -> Drive:
    known = local_drives.with_health(drive, told)
    if known is None:
        gaps.note(f"drives.{drive.name}", "the drive tells smartctl nothing of its health")
    return known or drive


async def _programs(gaps: Gaps, *, has_gpus: bool) -> tuple[str | None, str | None]:
    if not has_gpus:
        for name in ("container_toolkit", "fabric_manager"):
            gaps.missing.append(Missing(f"software.{name}", "this machine has no GPU that would need it"))
        return None, None
    toolkit, manager = await asyncio.gather(
        _version("software.container_toolkit", software.container_toolkit, gaps),
        _version("software.fabric_manager", software.fabric_manager, gaps),
    )
    return toolkit, manager


async def _version(field: str, read: Callable[[], Awaitable[str]], gaps: Gaps) -> str | None:
    try:
        return await read()
    except HostError as error:
        gaps.note(field, error)
        return None
