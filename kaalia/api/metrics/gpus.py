"""Metrics of each GPU, by its UUID: the newest reading of the driver, and which contract has it.

A reading is as old as the report (`kaalia_report_timestamp_seconds`), but temperature, power, use and clock are those
of the last look at the driver. What a GPU did not tell is absent, never 0.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from kaalia.api.metrics.metric import Metric, Sample, gauge, info
from kaalia.api.metrics.reading import Reading
from kaalia.model.machine import Gpu
from kaalia.store.claims import ClaimKind
from kaalia.units import MIB

MHZ = 1_000_000

_gauge = partial(gauge, is_tenants=True)
_info = partial(info, is_tenants=True)

GPU = _info(
    "kaalia_gpu_info",
    "A GPU: its place in the driver's order, model and PCI address.",
    *("gpu", "index", "name", "pci"),
)
HELD = _info("kaalia_gpu_contract_info", "Which contract has the GPU; absent while nobody has it.", "gpu", "contract")
CLAIMED = _gauge("kaalia_gpu_claimed", "1 while a contract has the GPU.", "gpu")
PROCESSES = _gauge("kaalia_gpu_processes", "Processes that use the GPU.", "gpu")

_VALUES: tuple[tuple[Metric, Callable[[Gpu], float | None]], ...] = (
    (_gauge("kaalia_gpu_temperature_celsius", "Temperature.", "gpu"), lambda gpu: gpu.temperature_c),
    (
        _gauge("kaalia_gpu_temperature_limit_celsius", "Temperature that the GPU is made to stay below.", "gpu"),
        lambda gpu: gpu.temperature_limit_c,
    ),
    (_gauge("kaalia_gpu_power_watts", "Power drawn.", "gpu"), lambda gpu: gpu.power_draw_w),
    (_gauge("kaalia_gpu_power_limit_watts", "Power limit.", "gpu"), lambda gpu: gpu.power_limit_w),
    (
        _gauge("kaalia_gpu_utilization_ratio", "Share of the time in which a kernel ran, 0 to 1.", "gpu"),
        lambda gpu: _times(gpu.utilization_percent, 0.01),
    ),
    (_gauge("kaalia_gpu_memory_bytes", "Memory of the GPU.", "gpu"), lambda gpu: gpu.vram_mb * MIB),
    (_gauge("kaalia_gpu_memory_used_bytes", "What is used of it.", "gpu"), lambda gpu: _times(gpu.vram_used_mb, MIB)),
    (_gauge("kaalia_gpu_sm_clock_hertz", "Clock of its processors.", "gpu"), lambda gpu: _times(gpu.sm_clock_mhz, MHZ)),
    (
        _gauge("kaalia_gpu_sm_clock_max_hertz", "The highest clock of its processors.", "gpu"),
        lambda gpu: _times(gpu.sm_clock_max_mhz, MHZ),
    ),
    (_gauge("kaalia_gpu_pcie_generation", "Generation of its PCIe link now.", "gpu"), lambda gpu: gpu.pci_gen_current),
    (
        _gauge("kaalia_gpu_pcie_generation_max", "The highest that it and its slot can do.", "gpu"),
        lambda gpu: gpu.pci_gen_max,
    ),
    (_gauge("kaalia_gpu_pcie_lanes", "Lanes of its PCIe link now.", "gpu"), lambda gpu: gpu.pci_width_current),
    (
        _gauge("kaalia_gpu_pcie_lanes_max", "The most that it and its slot can do.", "gpu"),
        lambda gpu: gpu.pci_width_max,
    ),
)

METRICS = (GPU, HELD, CLAIMED, PROCESSES, *(metric for metric, _ in _VALUES))


def samples(reading: Reading) -> Iterator[Sample]:
    held = {claim.key: claim.contract_id for claim, _ in reading.claims if claim.kind is ClaimKind.GPU}
    for uuid, contract_id in held.items():
        yield Sample(HELD, (uuid, str(contract_id)), 1)
    if reading.report is None:
        return
    users = Counter(process.gpu_uuid for process in reading.use.processes) if reading.use else None
    untold = {entry.field for entry in reading.report.missing}
    for gpu in reading.report.gpus:
        of_this = (gpu.uuid,)
        yield Sample(GPU, (gpu.uuid, str(gpu.index), gpu.name, gpu.pci_address or ""), 1)
        yield Sample(CLAIMED, of_this, float(gpu.uuid in held))
        if users is not None and f"gpus.{gpu.index}.processes" not in untold:
            yield Sample(PROCESSES, of_this, users[gpu.uuid])
        for metric, value_of in _VALUES:
            if (value := value_of(gpu)) is not None:
                yield Sample(metric, of_this, value)


def _times(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
