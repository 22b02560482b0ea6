"""How the GPUs are, for those who judge it: a reading of the driver beside what the PCI bus shows. Judges nothing."""

from datetime import datetime
from pathlib import Path

from kaalia.host import pci
from kaalia.host.nvml import NvmlReading
from kaalia.model.gpu_health import BusGpu, GpuReading, NvmlState


def of_reading(reading: NvmlReading, bus: tuple[BusGpu, ...], boot_id: str, now: datetime) -> GpuReading:
    """A driver that hung over the counters is a hung driver, though it told what its GPUs are."""
    is_hung = reading.counting is NvmlState.HUNG
    return GpuReading(
        now,
        boot_id,
        NvmlState.HUNG if is_hung else reading.state,
        reading.uncounted if is_hung else reading.reason,
        reading.error,
        "" if is_hung else reading.uncounted,
        reading.samples,
        bus,
        reading.errors,
    )


def on_bus(root: Path) -> tuple[BusGpu, ...]:
    return tuple(BusGpu(gpu.address, gpu.driver, *pci.link_best(gpu.address, root)) for gpu in pci.nvidia_gpus(root))
