"""Prints what the driver says of the GPUs, as one line of JSON: {"gpus": [...]} or {"problem": "..."}. A child's work:
it may hang there, or die. Imports Python's own library only."""

import ctypes
import json

LIBRARY = "libnvidia-ml.so.1"
_WORDS = {9: "the driver is not loaded", 15: "the GPU is lost", 18: "driver and library versions do not match"}
"""nvml.h"""
NAME_BYTES = 96


class Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Memory2(ctypes.Structure):
    """nvmlMemory_v2_t: `used` is without `reserved`, which the driver has for itself."""

    _fields_ = (
        ("version", ctypes.c_uint),
        *((name, ctypes.c_ulonglong) for name in ("total", "reserved", "free", "used")),
    )


def call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    code = getattr(library, name)(*arguments)
    if code:
        raise OSError(f"{name} failed with {code} ({_WORDS.get(code, 'see nvml.h')})")


def look() -> list[dict[str, object]]:
    library = ctypes.CDLL(LIBRARY)
    call(library, "nvmlInit_v2")
    count = ctypes.c_uint()
    call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    return [one(library, index) for index in range(count.value)]


def one(library: ctypes.CDLL, index: int) -> dict[str, object]:
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(NAME_BYTES)
    call(library, "nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle))
    call(library, "nvmlDeviceGetName", handle, name, NAME_BYTES)
    total, used = memory(library, handle)
    return {"name": name.value.decode(errors="replace"), "total_bytes": total, "free_bytes": total - used}


def memory(library: ctypes.CDLL, handle: ctypes.c_void_p) -> tuple[int, int]:
    """All of it, and what somebody uses, in bytes.

    Of a driver before 510 the latter is with what the driver reserves for itself, 3 % of a GPU with 8 GB.
    """
    if not hasattr(library, "nvmlDeviceGetMemoryInfo_v2"):
        old = Memory()
        call(library, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(old))
        return old.total, old.used
    new = Memory2(version=ctypes.sizeof(Memory2) | 2 << 24)
    call(library, "nvmlDeviceGetMemoryInfo_v2", handle, ctypes.byref(new))
    return new.total, new.used


def main() -> None:
    try:
        print(json.dumps({"gpus": look()}))
    except (OSError, AttributeError) as error:  # no library, no such function, or a call that failed
        print(json.dumps({"problem": str(error)}))


if __name__ == "__main__":
    main()
