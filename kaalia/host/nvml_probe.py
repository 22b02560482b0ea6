"""The child that talks to the NVIDIA driver: a call that hangs or aborts there ends this process, not the daemon.

Reads requests on stdin (the line `read`), answers each with one line of JSON; ends with its input. A field that cannot
be read has its NVML error by name in `errors`, so that one unsupported field never hides the rest. Imports nothing of
kaalia: it is started by path, isolated, and its memory counts in the daemon's budget.

Answer: {"state": "ok" | "no_driver" | "failed", "reason"?, "simulated"?, "errors"?, "driver_version"?, "cuda_version"?,
"gpus"?: [{"index", "errors", and the keys of GPU_FIELDS}]}, where "processes" are the ids of those that use the GPU.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pynvml

Reader = Callable[[Any], Any]

LIBRARY = "libnvidia-ml.so.1"
SIMULATED_SYMBOL = "kaalia_simulated_driver"
"""Exported by kaalia's stand-in for the driver and by nothing else."""


def _temperature_c(gpu: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetTemperatureV(gpu, pynvml.NVML_TEMPERATURE_GPU))
    except (pynvml.NVMLError_FunctionNotFound, AttributeError):  # a driver or a binding before 2025
        return int(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))


def _temperature_limit_c(gpu: Any) -> int:
    """The temperature the GPU is designed to stay below; older models only name where they slow down."""
    try:
        return int(pynvml.nvmlDeviceGetTemperatureThreshold(gpu, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX))
    except pynvml.NVMLError_NotSupported:
        return int(pynvml.nvmlDeviceGetTemperatureThreshold(gpu, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN))


def _power_limit_w(gpu: Any) -> float:
    """What the owner set; some boards only tell the limit in force."""
    try:
        return float(pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000)
    except pynvml.NVMLError_NotSupported:
        return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000)


def _pci_address(gpu: Any) -> str:
    info = pynvml.nvmlDeviceGetPciInfo(gpu)
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def _processes(gpu: Any) -> list[int]:
    """Ids of the processes that compute or draw on it, as the machine counts them."""
    found: set[int] = set()
    for kind in ("Compute", "Graphics"):
        try:
            running = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v3")(gpu)
        except pynvml.NVMLError_FunctionNotFound:  # a driver before 510
            running = getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses_v2")(gpu)
        found |= {int(process.pid) for process in running}
    return sorted(found)


GPU_FIELDS: dict[str, Reader] = {
    "uuid": pynvml.nvmlDeviceGetUUID,
    "name": pynvml.nvmlDeviceGetName,
    "vram_mb": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total >> 20,
    "vram_used_mb": lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used >> 20,
    "pci_address": _pci_address,
    "pci_gen_max": pynvml.nvmlDeviceGetMaxPcieLinkGeneration,
    "pci_gen_current": pynvml.nvmlDeviceGetCurrPcieLinkGeneration,
    "pci_width_max": pynvml.nvmlDeviceGetMaxPcieLinkWidth,
    "pci_width_current": pynvml.nvmlDeviceGetCurrPcieLinkWidth,
    "power_limit_w": _power_limit_w,
    "power_draw_w": lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "temperature_c": _temperature_c,
    "temperature_limit_c": _temperature_limit_c,
    "sm_clock_mhz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "sm_clock_max_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
    "memory_clock_max_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
    "compute_capability": pynvml.nvmlDeviceGetCudaComputeCapability,
    "utilization_percent": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "display_active": lambda gpu: bool(pynvml.nvmlDeviceGetDisplayActive(gpu)),
    "processes": _processes,
}
"""Named as in kaalia.model.machine.Gpu, in its units; `processes` are no fact of the GPU."""

SYSTEM_FIELDS: dict[str, Callable[[], Any]] = {
    "driver_version": pynvml.nvmlSystemGetDriverVersion,
    "cuda_version": pynvml.nvmlSystemGetCudaDriverVersion_v2,
}


def read() -> dict[str, Any]:
    """One reading. The driver is let go at its end: an idle daemon never blocks a driver upgrade or GPU reset."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _not_loaded(error)
    try:
        count = pynvml.nvmlDeviceGetCount()
        answer = {"state": "ok", "simulated": hasattr(pynvml.nvmlLib, SIMULATED_SYMBOL)}
        answer |= _fields(SYSTEM_FIELDS, lambda field: field())
        answer["gpus"] = [_gpu(index) for index in range(count)]
    except pynvml.NVMLError as error:
        return {"state": "failed", "reason": f"cannot count GPUs: {_name(error)}"}
    finally:
        _release()
    return answer


def _gpu(index: int) -> dict[str, Any]:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return {"index": index, "errors": {"handle": _name(error)}}
    return {"index": index} | _fields(GPU_FIELDS, lambda field: field(handle))


def _fields(readers: dict[str, Any], call: Callable[[Any], Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, reader in readers.items():
        try:
            values[name] = call(reader)
        except pynvml.NVMLError as error:
            errors[name] = _name(error)
        except UnicodeDecodeError as error:
            errors[name] = f"the driver's text is not UTF-8: {error.object!r}"
    return values | {"errors": errors}


def _not_loaded(error: Any) -> dict[str, Any]:
    """No library is legal (a machine without GPUs); one that cannot be loaded or initialised is a failure."""
    if not isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return {"state": "failed", "reason": f"cannot initialise NVML: {_name(error)}"}
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as cause:  # pynvml does not pass the cause on
        text = str(cause)
        absent = text.startswith(LIBRARY) and "No such file" in text
        return {"state": "no_driver" if absent else "failed", "reason": f"cannot load {LIBRARY}: {text}"}
    return {"state": "failed", "reason": f"cannot load {LIBRARY}: {_name(error)}"}


def _release() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        sys.stderr.write(f"cannot shut NVML down: {_name(error)}\n")


def _name(error: Any) -> str:
    """`NVMLError_NotSupported`, or the number of an error that this pynvml does not know."""
    name = type(error).__name__
    return name if name != "NVMLError" else f"NVMLError {error.value}"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a driver prints must not mix with the answers
    for line in sys.stdin:
        request = line.strip()
        answer = read() if request == "read" else {"state": "failed", "reason": f"cannot understand {request!r}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
