"""How fast each GPU's own memory is: a block is copied within it, one GPU after the other, and the copy is verified.

Arguments: gpus, quick, `bytes` of the block at most (1 GiB, or 40 % of what is free).
Figure for each GPU: device_bandwidth_gbps, 10^9 bytes a second, what is read and what is written counted both.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, pattern, talk
from kaalia.selftest.work.cuda import Gpu
from kaalia.selftest.work.timing import Rate, rate

MOST_BYTES, SHARE = 1 << 30, 0.4
ROUNDS, ROUND_S = 7, 0.1
QUICK_ROUNDS, QUICK_ROUND_S = 3, 0.03
SEED = 11


def measure(gpu: Gpu, most: int, *, quick: bool) -> tuple[int, Rate]:
    """The size of the block, and how often it is copied in a second. Raises FailedError, also `memory_wrong`."""
    with gpu:
        finds = pattern.Finds(gpu)
        size = pattern.part(gpu, SHARE, most)
        source, target = gpu.allocate(size), gpu.allocate(size)
        pattern.fill(gpu, source, size, SEED)
        gpu.clear(target, size)

        def copy() -> None:
            pattern.launch(gpu, "copy", target, source, ctypes.c_uint64(size // pattern.PIECE))

        shape = (QUICK_ROUNDS, QUICK_ROUND_S) if quick else (ROUNDS, ROUND_S)
        found = rate(gpu, copy, "copying within memory", *shape)
        pattern.verify(gpu, finds, target, size, SEED)
        gpu.wait("verifying the copy")
        finds.refuse("memory_wrong", f"copies within GPU {gpu.uuid}", "see nvidia-smi -q -d ECC; else replace the GPU")
        gpu.free(source)
        gpu.free(target)
    return size, found


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    slowest = float("inf")
    for number, gpu in enumerate(gpus):
        talk.progress(number / len(gpus), f"GPU {number + 1} of {len(gpus)}")
        most = int(arguments.get("bytes", MOST_BYTES))
        size, found = measure(gpu, most, quick=bool(arguments.get("quick")))
        value = round(2 * size * found.per_s / 1e9, 2)
        talk.figure("device_bandwidth_gbps", value, "GB/s", gpu.uuid, found.spread)
        slowest = min(slowest, value)
    return f"the memory of {len(gpus)} GPUs moves {slowest:g} GB/s or more"


if __name__ == "__main__":
    talk.run(work)
