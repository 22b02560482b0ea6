"""What a GPU should be able to do, derived from what its driver told and from gpu_models.toml. Nothing is measured.

Each figure says by which method it came. None: neither the driver nor the data know this GPU.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from kaalia.model.machine import Gpu

_TRANSFERS = 2
"""A clock of memory moves data twice; NVML's memory clock of GDDR5X, GDDR6X and GDDR7 is scaled so that it fits."""
_OPERATIONS = 2
"""A fused multiply-add, each core, each clock."""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


# When the module is imported, not in somebody's event loop.
_DATA = tomllib.loads((resources.files("kaalia.wire") / "gpu_models.toml").read_text(encoding="utf-8"))
_MODELS: Mapping[str, Mapping[str, Any]] = _DATA["model"]
_NVLINK: Mapping[str, float] = _DATA["nvlink"]
_CUDA_LAST = tuple((_version(one["below"]), str(one["version"])) for one in _DATA["cuda_last"])
_DLPERF_PER_GBPS = float(_DATA["dlperf"]["points_per_gbps"])
_COPIES_REACH = float(_DATA["dlperf"]["copies_reach"])
_BELIEVED = float(_DATA["dlperf"]["believed"])


@dataclass(frozen=True, slots=True)
class Derived:
    value: float
    method: str


def fp32_tflops(gpu: Gpu, name: str) -> Derived | None:
    """10^12 operations a second in single precision. `name`: as users know the model."""
    known = _MODELS.get(name, {}).get("fp32_tflops")
    if known is not None:
        return Derived(float(known), "data sheet: FP32 at boost clock")
    if gpu.cores is None or gpu.sm_clock_max_mhz is None:
        return None
    tflops = gpu.cores * gpu.sm_clock_max_mhz * _OPERATIONS / 1e6
    return Derived(round(tflops, 1), "NVML: cores x highest SM clock x 2; the model is in no table")


def memory_gbps(gpu: Gpu, name: str) -> Derived | None:
    """10^9 bytes a second between the GPU and its own memory."""
    if gpu.memory_bus_bits and gpu.memory_clock_max_mhz:
        gbps = gpu.memory_bus_bits / 8 * gpu.memory_clock_max_mhz * _TRANSFERS / 1e3
        return Derived(round(gbps, 1), "NVML: memory bus width x highest memory clock x 2")
    known = _MODELS.get(name, {}).get("memory_gbps")
    return None if known is None else Derived(float(known), "data sheet: memory bandwidth")


def nvlink_gbps(gpu: Gpu) -> Derived | None:
    """10^9 bytes a second over all links that are up, one way. 0: it has none."""
    if gpu.nvlinks is None:
        return None
    if gpu.nvlinks == 0:
        return Derived(0.0, "NVML: no NVLink is up")
    each = _NVLINK.get(str(gpu.nvlink_version))
    return (
        None if each is None else Derived(gpu.nvlinks * float(each), "NVML: links that are up x rate of their version")
    )


def cuda_max(driver_cuda: str, gpus: Iterable[Gpu]) -> str:
    """The newest CUDA whose programs run on all of these GPUs. `driver_cuda`: the newest that their driver knows."""
    known = [gpu.compute_capability for gpu in gpus if gpu.compute_capability]
    least = min(known, default=None)
    bounds = [last for below, last in _CUDA_LAST if least is not None and least < below]
    return min([driver_cuda, *bounds], key=_version)


def dlperf(gpu: Gpu, name: str) -> Derived | None:
    """An estimate of training speed, near 21 for a V100; see gpu_models.toml. It is computed, not measured."""
    bandwidth = memory_gbps(gpu, name)
    if bandwidth is None:
        return None
    points = bandwidth.value * _DLPERF_PER_GBPS
    return Derived(round(points, 1), "estimate by memory bandwidth, not measured")


def measured_dlperf(gpu: Gpu, name: str, copied_gbps: float) -> Derived | None:
    """By what a self-test copied within the GPU a second; None for a model that nobody knows."""
    known = dlperf(gpu, name)
    if known is None:
        return None
    points = copied_gbps / _COPIES_REACH * _DLPERF_PER_GBPS
    return Derived(round(min(points, known.value * _BELIEVED), 1), "measured: memory bandwidth in the self-test")
