"""The child that talks to the NVIDIA driver: a call that hangs or aborts there ends this process, not the daemon.

Reads requests on stdin (the lines `read` and `counters`), answers each with one line of JSON; ends with its input. A
field that cannot be read has its NVML error by name in `errors`, so that one unsupported field never hides the rest.
Imports nothing of kaalia: it is started by path, isolated, and its memory counts in the daemon's budget.

Answer: {"state": "ok" | "no_driver" | "failed", "reason"?, "error"?, "simulated"?, "errors"?, "driver_version"?,
"cuda_version"?, "gpus"?: [{"index", "errors", and the keys of GPU_FIELDS}]}, where "processes" are the ids of those
that use the GPU, and "error" is NVML's, by name. To `counters`: the keys of COUNTERS instead, none of the system.
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

# --- counters and faults: what tells whether a GPU is well ---


def _field(gpu: Any, number: int) -> int | float:
    """One of NVML's numbered fields; each has an error of its own. A driver calls those it does not know invalid."""
    (answer,) = pynvml.nvmlDeviceGetFieldValues(gpu, [number])
    if answer.nvmlReturn == pynvml.NVML_ERROR_INVALID_ARGUMENT:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    if answer.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(answer.nvmlReturn)
    value: int | float = getattr(answer.value, _VALUE_TYPES[answer.valueType])
    return value


_VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""By nvmlValueType_t."""


def _named(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda values: dict(zip(names, values, strict=True))


def _sram_threshold_exceeded(gpu: Any) -> int:
    """By NVIDIA's own measure: beyond it their field diagnosis fails the board."""
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(gpu, ctypes.byref(status))
    return int(status.bThresholdExceeded)


def _retired_pages(gpu: Any) -> int:
    """For either cause. Boards before Ampere; later ones remap rows."""
    return sum(len(pynvml.nvmlDeviceGetRetiredPages(gpu, cause)) for cause in (0, 1))


def _clock_reasons(gpu: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError_FunctionNotFound:  # a driver before 535
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))


def _slowed_s(gpu: Any, policy: int) -> float:
    """For how long it was below its clocks for that, since the driver was loaded."""
    return float(pynvml.nvmlDeviceGetViolationStatus(gpu, policy).violationTime / 1e9)


def _nvlinks(gpu: Any) -> dict[str, int]:
    """How many links it has, and how many are up; a bridge uses some of them."""
    states = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(int(pynvml.nvmlDeviceGetNvLinkState(gpu, link)))
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            break
    if not states:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return {"count": len(states), "up": sum(state == pynvml.NVML_FEATURE_ENABLED for state in states)}


def _fabric(gpu: Any) -> dict[str, int]:
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    return {"state": info.state, "status": info.status, "health": info.healthMask}


COUNTERS: dict[str, Reader] = {
    "uuid": pynvml.nvmlDeviceGetUUID,
    "ecc": lambda gpu: _named("current", "pending")(pynvml.nvmlDeviceGetEccMode(gpu)),
    "ecc_volatile_corrected": lambda gpu: pynvml.nvmlDeviceGetTotalEccErrors(gpu, 0, 0),
    "ecc_volatile_uncorrected": lambda gpu: pynvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 0),
    "ecc_aggregate_uncorrected": lambda gpu: pynvml.nvmlDeviceGetTotalEccErrors(gpu, 1, 1),
    "sram_threshold_exceeded": _sram_threshold_exceeded,
    "rows": lambda gpu: _named("corrected", "uncorrected", "pending", "failed")(pynvml.nvmlDeviceGetRemappedRows(gpu)),
    "retired_pages": _retired_pages,
    "retired_pages_pending": pynvml.nvmlDeviceGetRetiredPagesPendingStatus,
    "clock_reasons": _clock_reasons,
    "power_slowed_s": lambda gpu: _slowed_s(gpu, pynvml.NVML_PERF_POLICY_POWER),
    "thermal_slowed_s": lambda gpu: _slowed_s(gpu, pynvml.NVML_PERF_POLICY_THERMAL),
    "power_default_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1000,
    "energy_mj": pynvml.nvmlDeviceGetTotalEnergyConsumption,
    "pcie_replays": pynvml.nvmlDeviceGetPcieReplayCounter,
    "nvlinks": _nvlinks,
    "nvlink_crc": lambda gpu: _field(gpu, pynvml.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL),
    "nvlink_replays": lambda gpu: _field(gpu, pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL),
    "nvlink_recoveries": lambda gpu: _field(gpu, pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL),
    "fabric": _fabric,
    "persistence_mode": pynvml.nvmlDeviceGetPersistenceMode,
    "mig": lambda gpu: _named("current", "pending")(pynvml.nvmlDeviceGetMigMode(gpu)),
    "recovery_action": lambda gpu: _field(gpu, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
    "memory_c": lambda gpu: _field(gpu, pynvml.NVML_FI_DEV_MEMORY_TEMP),
    "memory_limit_c": lambda gpu: pynvml.nvmlDeviceGetTemperatureThreshold(
        gpu, pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX
    ),
}
"""Numbers, or several by name: `rows` of `pending` is told as `rows_pending`."""

SYSTEM_FIELDS: dict[str, Callable[[], Any]] = {
    "driver_version": pynvml.nvmlSystemGetDriverVersion,
    "cuda_version": pynvml.nvmlSystemGetCudaDriverVersion_v2,
}


def read() -> dict[str, Any]:
    """What the GPUs are."""
    return _reading(SYSTEM_FIELDS, GPU_FIELDS)


def counters() -> dict[str, Any]:
    """How the GPUs are. A request of its own: a driver that dies of a rare call has told the rest by then."""
    return _reading({}, COUNTERS)


def _reading(of_system: dict[str, Any], of_gpu: dict[str, Reader]) -> dict[str, Any]:
    """One reading. The driver is let go at its end: an idle daemon never blocks a driver upgrade or GPU reset."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _not_loaded(error)
    try:
        count = pynvml.nvmlDeviceGetCount()
        answer = {"state": "ok", "simulated": hasattr(pynvml.nvmlLib, SIMULATED_SYMBOL)}
        answer |= _fields(of_system, lambda field: field())
        answer["gpus"] = [_gpu(index, of_gpu) for index in range(count)]
    except pynvml.NVMLError as error:
        return _failed("cannot count GPUs", error)
    finally:
        _release()
    return answer


def _gpu(index: int, readers: dict[str, Reader]) -> dict[str, Any]:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return {"index": index, "errors": {"handle": _name(error)}}
    return {"index": index} | _fields(readers, lambda field: field(handle))


def _fields(readers: dict[str, Any], call: Callable[[Any], Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, reader in readers.items():
        try:
            values[name] = call(reader)
        except pynvml.NVMLError as error:
            errors[name] = _name(error)
        except AttributeError:  # a binding before this call, or before one of its names
            errors[name] = pynvml.NVMLError_FunctionNotFound.__name__
        except UnicodeDecodeError as error:
            errors[name] = f"the driver's text is not UTF-8: {error.object!r}"
    return values | {"errors": errors}


def _not_loaded(error: Any) -> dict[str, Any]:
    """No library is legal (a machine without GPUs); one that cannot be loaded or initialised is a failure."""
    if not isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return _failed("cannot initialise NVML", error)
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as cause:  # pynvml does not pass the cause on
        text = str(cause)
        absent = text.startswith(LIBRARY) and "No such file" in text
        state = "no_driver" if absent else "failed"
        return {"state": state, "reason": f"cannot load {LIBRARY}: {text}", "error": _name(error)}
    return _failed(f"cannot load {LIBRARY}", error)


def _failed(what: str, error: Any) -> dict[str, Any]:
    return {"state": "failed", "reason": f"{what}: {_name(error)}", "error": _name(error)}


def _release() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        sys.stderr.write(f"cannot shut NVML down: {_name(error)}\n")


def _name(error: Any) -> str:
    """`NVMLError_NotSupported`, or the number of an error that this pynvml does not know."""
    name = type(error).__name__
    return name if name != "NVMLError" else f"NVMLError {error.value}"


ANSWERS: dict[str, Callable[[], dict[str, Any]]] = {"read": read, "counters": counters}
"""By request. nvml_inventory.py has more."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a driver prints must not mix with the answers
    for line in sys.stdin:
        request = line.strip()
        known = ANSWERS.get(request)
        answer = known() if known else {"state": "failed", "reason": f"cannot understand {request!r}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
