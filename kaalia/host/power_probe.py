"""The child that reads and sets power limits and clocks: a call that hangs or aborts there ends this process.

Reads one JSON document on stdin: a list of {"uuid", "power_w"?, "clock_max_mhz"?, "unlock"?}; sets these, and answers
with one line: {"state": "ok" | "no_driver" | "failed", "reason"?, "gpus"?: [{"index", "uuid", "name", "limit_w", ...,
"errors"}], "refused": {UUID: [NVML's errors by name]}}. Imports nothing of kaalia: it is started by path, isolated.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pynvml

FIELDS: dict[str, Callable[[Any], Any]] = {
    "uuid": pynvml.nvmlDeviceGetUUID,
    "name": pynvml.nvmlDeviceGetName,
    "limit_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000,
    "default_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu) / 1000,
    "min_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)[0] / 1000,
    "max_w": lambda gpu: pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)[1] / 1000,
    "temperature_c": lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    "clock_max_mhz": lambda gpu: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
}
"""Named as in kaalia.model.power.GpuPower."""
CLOCK_MIN_MHZ = 0
"""The driver takes the lowest that the GPU can."""


def answer(wishes: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return {"state": "no_driver", "reason": "there is no NVIDIA driver"}
    except pynvml.NVMLError as error:
        return {"state": "failed", "reason": f"cannot initialise NVML: {_name(error)}"}
    try:
        handles = dict(_handles())
        by_uuid = {uuid: handle for handle in handles.values() if (uuid := _uuid(handle))}
        refused = {wish["uuid"]: _apply(by_uuid.get(wish["uuid"]), wish) for wish in wishes}
        gpus = [{"index": index, **_read(handle)} for index, handle in handles.items()]
    except pynvml.NVMLError as error:
        return {"state": "failed", "reason": f"cannot read the GPUs: {_name(error)}"}
    finally:
        _release()
    return {"state": "ok", "gpus": gpus, "refused": {uuid: errors for uuid, errors in refused.items() if errors}}


def _handles() -> Iterator[tuple[int, Any]]:
    """By index; without those that the driver has lost, of which others may be well."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            yield index, pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            sys.stderr.write(f"cannot reach GPU {index}: {_name(error)}\n")


def _uuid(handle: Any) -> str:
    try:
        return str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError:
        return ""


def _apply(handle: Any, wish: dict[str, Any]) -> list[str]:
    """What the driver refused of it."""
    if handle is None:
        return ["the driver shows no such GPU"]
    calls: list[Callable[[], Any]] = []
    if wish.get("power_w") is not None:
        calls.append(lambda: pynvml.nvmlDeviceSetPowerManagementLimit(handle, round(wish["power_w"] * 1000)))
    if wish.get("clock_max_mhz") is not None:
        calls.append(lambda: pynvml.nvmlDeviceSetGpuLockedClocks(handle, CLOCK_MIN_MHZ, wish["clock_max_mhz"]))
    if wish.get("unlock"):
        calls.append(lambda: pynvml.nvmlDeviceResetGpuLockedClocks(handle))
    errors = []
    for call in calls:
        try:
            call()
        except pynvml.NVMLError as error:
            errors.append(_name(error))
    return errors


def _read(handle: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, reader in FIELDS.items():
        try:
            values[name] = reader(handle)
        except pynvml.NVMLError as error:
            errors[name] = _name(error)
    return values | {"errors": errors}


def _release() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        sys.stderr.write(f"cannot shut NVML down: {_name(error)}\n")


def _name(error: Any) -> str:
    name = type(error).__name__
    return name if name != "NVMLError" else f"NVMLError {error.value}"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a driver prints must not mix with the answer
    answers.write(json.dumps(answer(json.load(sys.stdin))) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
