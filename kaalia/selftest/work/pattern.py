"""Blocks of GPU memory with a pattern that the kernels know again. Standard library only."""

import ctypes
import struct

from kaalia.selftest.work.cuda import Gpu, Stream
from kaalia.selftest.work.talk import FailedError

FIXED, ADDRESS, WALKING, RANDOM = range(4)
"""The kinds of kernels/memory.cu."""
THREADS, BLOCKS_EACH = 256, 16
NONE_FOUND = struct.pack("<QQQ", 0, 2**64 - 1, 0)
PIECE = 16
"""Bytes that a thread moves at once; sizes are multiples of it."""
WHOLE = 65536
"""Bytes of which blocks are made."""


class Finds:
    """Where the kernels of one GPU count the words that are not as they should be."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.at = gpu.allocate(len(NONE_FOUND))
        gpu.put(self.at, NONE_FOUND)

    def read(self) -> tuple[int, int, int]:
        """How many words, the byte of the first of them, the bits that differ; and begins anew."""
        count, index, bits = struct.unpack("<QQQ", self._gpu.get(self.at, len(NONE_FOUND)))
        self._gpu.put(self.at, NONE_FOUND)
        return count, 4 * index, bits

    def refuse(self, code: str, what: str, remedy: str) -> None:
        """Raise FailedError when anything was found. `what` follows "cannot trust"."""
        count, place, bits = self.read()
        if count:
            raise FailedError(
                code,
                f"cannot trust {what}: {count} words are wrong, the first at byte {place}, in the bits 0x{bits:08x}",
                remedy=remedy,
            )


def launch(gpu: Gpu, kernel: str, *arguments: object, stream: Stream | None = None) -> None:
    """One of the kernels of memory.cu, with as many threads as the GPU likes."""
    gpu.module("memory").launch(kernel, gpu.multiprocessors * BLOCKS_EACH, THREADS, *arguments, stream=stream)


def fill(gpu: Gpu, at: ctypes.c_uint64, size: int, seed: int, first: int = 0) -> None:
    """`first`: number of the block's first word."""
    launch(gpu, "fill", at, ctypes.c_uint64(size // PIECE), *_random(seed, first))


def verify(gpu: Gpu, finds: Finds, at: ctypes.c_uint64, size: int, seed: int, first: int = 0) -> None:
    launch(gpu, "verify", finds.at, at, ctypes.c_uint64(size // PIECE), *_random(seed, first))


def part(gpu: Gpu, share: float, most: int) -> int:
    """As many bytes as a share of the free memory, at most `most`, in whole 64 KiB."""
    free, _ = gpu.memory()
    size = min(int(free * share), most) // WHOLE * WHOLE
    if size < WHOLE:
        raise FailedError(
            "memory_in_use",
            f"cannot work on GPU {gpu.uuid}: only {free >> 20} MiB of its memory are free",
            remedy="see what holds it: nvidia-smi",
        )
    return size


def _random(seed: int, first: int) -> tuple[object, ...]:
    return ctypes.c_uint32(RANDOM), ctypes.c_uint32(seed), ctypes.c_uint32(0), ctypes.c_uint64(first)
