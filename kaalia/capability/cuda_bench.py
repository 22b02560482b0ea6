"""The child that measures the links of one GPU by the CUDA driver alone (libcuda): it may hang or die there.

CUDA_VISIBLE_DEVICES names the GPU. Each line on stdin is `up` (host to GPU), `down` or `copy` (within the GPU); each is
answered by one line of JSON: {"gbps": [10^9 bytes a second of each round]} or {"reason": why not}. Imports nothing of
kaalia.
"""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable

LIBRARY = "libcuda.so.1"
BLOCK_BYTES = 64 << 20
ROUNDS = 8
ROUND_S = 0.15
_WORDS = {2: "out of memory", 100: "no such GPU", 101: "no such GPU", 803: "driver and library do not match"}
"""cuda.h"""


class Gpu:
    """The first visible one, with a pinned block of the host's memory and two of its own."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL(LIBRARY)
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
        self._host = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(self._host), ctypes.c_size_t(BLOCK_BYTES), 0)
        self._here, self._there = ctypes.c_uint64(), ctypes.c_uint64()
        for block in (self._here, self._there):
            self._call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(BLOCK_BYTES))

    def up(self) -> None:
        self._call("cuMemcpyHtoD_v2", self._here, self._host, ctypes.c_size_t(BLOCK_BYTES))

    def down(self) -> None:
        self._call("cuMemcpyDtoH_v2", self._host, self._here, ctypes.c_size_t(BLOCK_BYTES))

    def copy(self) -> None:
        self._call("cuMemcpyDtoD_v2", self._there, self._here, ctypes.c_size_t(BLOCK_BYTES))

    def wait(self) -> None:
        self._call("cuCtxSynchronize")

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise OSError(f"{name} failed with CUDA error {code} ({_WORDS.get(code, 'see cuda.h')})")


def rates(work: Callable[[], None], wait: Callable[[], None], moved: int) -> list[float]:
    """Of each round. `moved`: bytes of one block, as many times as they cross the bus or memory."""
    work()
    wait()
    found = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        blocks = 0
        while time.perf_counter() - begin < ROUND_S:
            for _ in range(4):
                work()
            wait()
            blocks += 4
        found.append(blocks * moved / (time.perf_counter() - begin) / 1e9)
    return found


def answer(gpu: Gpu, request: str) -> dict[str, object]:
    if request == "copy":  # read and written
        return {"gbps": rates(gpu.copy, gpu.wait, 2 * BLOCK_BYTES)}
    return {"gbps": rates(gpu.up if request == "up" else gpu.down, gpu.wait, BLOCK_BYTES)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a driver prints must not mix with the answers
    gpu: Gpu | None = None
    for line in sys.stdin:
        try:
            gpu = gpu or Gpu()
            told = answer(gpu, line.strip())
        except (OSError, AttributeError) as error:  # no library, no such function, or a call that failed
            told = {"reason": str(error)}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
