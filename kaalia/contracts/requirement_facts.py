"""What requirements are held against: a machine's report, its reliability, what its newest self-test measured. Pure.

What is not known is None, never a guess. A figure of a self-test is newer than the same number of the report.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kaalia.contracts.slicing import by_model
from kaalia.model.machine import Gpu, MachineReport
from kaalia.model.selftest import StepResult
from kaalia.units import GB, MIB

_FIGURES = {"pcie_gbps": ("host_to_device_gbps", "device_to_host_gbps")}
"""Fact -> figures of the self-test's steps, of which the least counts."""
_NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Facts:
    """Of the weakest GPU what is of one GPU, and sums of what is of all. Bounds are in contracts/requirements.toml."""

    gpus: float = 0
    models: float = 0
    vram_gib: float | None = None
    """Of the smallest GPU."""
    vram_total_mib: float = 0
    compute_capability: float | None = None
    cuda: float | None = None
    """Newest CUDA that the driver supports, as `cuda_max_good`."""
    reliability: float | None = None
    tcp_ports: float | None = None
    """That a prober reached from outside."""
    udp_ports: float | None = None
    down_mbps: float | None = None
    up_mbps: float | None = None
    pcie_gbps: float | None = None
    lanes: float | None = None
    gpu_tflops: float | None = None
    """FP32 of one GPU, by the table of models."""
    memory_mib: float | None = None
    logical_cores: float | None = None
    physical_cores: float | None = None
    avx: float | None = None
    """1: it has it, or needs none."""
    disk_gb: float | None = None
    quota: float | None = None
    """1: sizes are enforced."""
    is_simulated: bool = False
    """No GPU is behind the driver: what such a one measures is the processor's memory."""


def of(
    report: MachineReport,
    reliability: float | None = None,
    tflops: float | None = None,
    measured: Mapping[str, float] = _NOTHING,
) -> Facts:
    """`reliability`: 0 to 1, None: not told. `tflops`: of all GPUs. `measured`: `least` of the newest test."""
    gpus, network, cpu, disk = report.gpus, report.network, report.cpu, report.disk
    capabilities = [_number(*gpu.compute_capability) for gpu in gpus if gpu.compute_capability]
    speed, proven = network.speed, network.proven
    is_simulated = report.driver is not None and report.driver.simulated
    pcie = None if is_simulated else _measured("pcie_gbps", measured)
    if pcie is None and report.benchmarks is not None:
        pcie = report.benchmarks.pcie_gbps
    return Facts(
        gpus=len(gpus),
        models=len(by_model(gpus)),
        vram_gib=min((gpu.vram_mb / 1024 for gpu in gpus), default=None),
        vram_total_mib=sum(gpu.vram_mb for gpu in gpus),
        compute_capability=min(capabilities) if gpus and len(capabilities) == len(gpus) else None,
        cuda=_cuda(report),
        reliability=reliability,
        tcp_ports=None if proven is None else proven.tcp,
        udp_ports=None if proven is None else proven.udp,
        down_mbps=None if speed is None else round(speed.down.mbps, 1),
        up_mbps=None if speed is None else round(speed.up.mbps, 1),
        pcie_gbps=pcie,
        lanes=min((lanes for gpu in gpus if (lanes := _lanes(gpu)) is not None), default=None),
        gpu_tflops=None if tflops is None or not gpus else tflops / len(gpus),
        memory_mib=report.memory.total_bytes // MIB,
        logical_cores=cpu.logical_cores,
        physical_cores=cpu.physical_cores,
        avx=1 if cpu.architecture == "arm64" else None if cpu.has_avx is None else float(cpu.has_avx),
        disk_gb=None if disk is None else disk.total_bytes // GB,
        quota=None if report.engine is None else float(report.engine.enforces_disk_size),
        is_simulated=is_simulated,
    )


def least(steps: Iterable[StepResult]) -> dict[str, float]:
    """Each figure of a self-test by its name: of several GPUs the least."""
    found: dict[str, float] = {}
    for figure in (one for step in steps for one in step.figures):
        found[figure.name] = min(figure.value, found.get(figure.name, figure.value))
    return found


def _measured(fact: str, measured: Mapping[str, float]) -> float | None:
    return min((measured[name] for name in _FIGURES[fact] if name in measured), default=None)


def _lanes(gpu: Gpu) -> int | None:
    """An idle link keeps its width, unlike its speed."""
    return gpu.pci_width_current if gpu.pci_width_current is not None else gpu.pci_width_max


def _cuda(report: MachineReport) -> float | None:
    """`12.4` is 12.4; what is no version is not known."""
    version = report.driver.cuda_version if report.driver else None
    major, _, minor = (version or "").partition(".")
    return _number(int(major), int(minor or 0)) if major.isdecimal() and (minor or "0").isdecimal() else None


def _number(major: int, minor: int) -> float:
    return float(f"{major}.{minor}")
