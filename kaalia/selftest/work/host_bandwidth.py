"""How fast bytes go between the host's pinned memory and each GPU, one GPU after the other, and whether they arrive.

Arguments: gpus, quick, `bytes` of the block at most (256 MiB, or a quarter of what is free); a slow link: less.
Figures for each GPU: host_to_device_gbps, device_to_host_gbps, 10^9 bytes a second.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, pattern, talk
from kaalia.selftest.work.cuda import Gpu
from kaalia.selftest.work.timing import Rate, fitting, rate

MOST_BYTES, SHARE = 256 << 20, 0.25
ROUNDS, ROUND_S = 7, 0.15
QUICK_ROUNDS, QUICK_ROUND_S = 3, 0.06
SEED = 12


def measure(gpu: Gpu, most: int, *, quick: bool) -> tuple[int, Rate, Rate]:
    """The block's size, and how often a second it goes up and down. What went down comes up again, into another place.

    Raises FailedError, also `pcie_wrong`.
    """
    with gpu:
        finds = pattern.Finds(gpu)
        size = pattern.part(gpu, SHARE, most)
        here, there, host = gpu.allocate(size), gpu.allocate(size), gpu.pinned(size)
        ctypes.memset(host, 0, size)
        gpu.clear(there, size)
        pattern.fill(gpu, here, size, SEED)
        shape = (QUICK_ROUNDS, QUICK_ROUND_S) if quick else (ROUNDS, ROUND_S)
        size = fitting(gpu, lambda count: gpu.bring_down(host, here, count), size, "copying to the host")
        down = rate(gpu, lambda: gpu.bring_down(host, here, size), "copying to the host", *shape)
        up = rate(gpu, lambda: gpu.bring_up(there, host, size), "copying to the GPU", *shape)
        pattern.verify(gpu, finds, there, size, SEED)
        gpu.wait("verifying what came back")
        remedy = "reseat the GPU or change its riser cable; see dmesg for AER lines"
        finds.refuse("pcie_wrong", f"the link between host and GPU {gpu.uuid}", remedy)
        gpu.unpin(host)
        gpu.free(here)
        gpu.free(there)
    return size, up, down


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    slowest, least = float("inf"), MOST_BYTES
    for number, gpu in enumerate(gpus):
        talk.progress(number / len(gpus), f"GPU {number + 1} of {len(gpus)}")
        most = int(arguments.get("bytes", MOST_BYTES))
        size, up, down = measure(gpu, most, quick=bool(arguments.get("quick")))
        least = min(least, size)
        for name, found in (("host_to_device_gbps", up), ("device_to_host_gbps", down)):
            value = round(size * found.per_s / 1e9, 3)
            talk.figure(name, value, "GB/s", gpu.uuid, found.spread)
            slowest = min(slowest, value)
    return f"each of {len(gpus)} GPUs gets and gives {slowest:g} GB/s or more, in blocks of {least >> 10} KiB or more"


if __name__ == "__main__":
    talk.run(work)
