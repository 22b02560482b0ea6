"""Fills almost all memory of each GPU with patterns and verifies every word, all GPUs at once.

Arguments: gpus, quick, `percent` of the memory that is free to fill (95), `seconds` to go on for (0 when quick, else
15) and `rounds` at most (16): at least every pattern once.

A pattern is written, verified while its opposite is written (upwards, then downwards), and verified again: each bit of
each word was 0 and 1, and neighbours changed in both orders (moving inversions). Figures for each GPU:
memory_tested_percent (of all its memory), memory_tested_gb, memory_words_wrong.
"""

import ctypes
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, pattern, talk
from kaalia.selftest.work.cuda import Gpu
from kaalia.selftest.work.pattern import ADDRESS, FIXED, RANDOM, WALKING
from kaalia.selftest.work.talk import FailedError

PERCENT = 95.0
HELD_PERCENT = 10.0
"""More than a context of ours needs on the smallest GPU of a marketplace (8 GB): somebody else has it."""
SECONDS, ROUNDS = 15.0, 16
"""A round moves all of the memory 36 times: a second on cards of any size (24 GB at 1 TB/s, 80 GB at 3 TB/s), so that
the time is what ends it there. What is smaller and slower than any card is not filled more often for it."""
PIECE_BYTES = 1 << 30
SMALLEST_PIECE_BYTES = 1 << 20
PATTERNS = ((FIXED, 0), (FIXED, 0x55555555), (ADDRESS, 0), (WALKING, 0), (RANDOM, 1), (RANDOM, 2))


@dataclass(frozen=True, slots=True)
class Piece:
    """`first`: number of its first 4-byte word among all that are filled."""

    at: ctypes.c_uint64
    size: int
    first: int


@dataclass(slots=True)
class Filling:
    """What is filled of one GPU."""

    gpu: Gpu
    total: int
    finds: pattern.Finds
    pieces: list[Piece] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def each(self, kernel: str, *arguments: Any, has_found: bool = True) -> None:
        """Launch `kernel` on every piece, without waiting."""
        with self.gpu as gpu:
            for piece in self.pieces:
                head = (self.finds.at,) if has_found else ()
                shape = (piece.at, ctypes.c_uint64(piece.size // 16))
                kind, seed, flip, *rest = (ctypes.c_uint32(one) for one in arguments)
                tail = (kind, seed, flip, ctypes.c_uint64(piece.first), *rest)
                pattern.launch(gpu, kernel, *head, *shape, *tail)

    def wait(self) -> None:
        with self.gpu as gpu:
            gpu.wait("filling memory")

    def wrong(self) -> tuple[int, int, int]:
        """How many words, the byte of the first, the bits that differ."""
        with self.gpu:
            return self.finds.read()


def take(gpu: Gpu, percent: float) -> Filling:
    """All that is free, less what `percent` leaves, in pieces as large as can be had."""
    with gpu:
        free, total = gpu.memory()
        if free < total * (100 - HELD_PERCENT) / 100:
            raise FailedError(
                "memory_in_use",
                f"cannot fill the memory of GPU {gpu.uuid}: only {free >> 20} of {total >> 20} MiB are free",
                remedy="see what holds it: nvidia-smi; end it, or drain the machine and reboot",
            )
        gpu.module("memory")
        filling = Filling(gpu, total, pattern.Finds(gpu))
        left, piece = int(free * percent / 100), PIECE_BYTES
        while left >= SMALLEST_PIECE_BYTES and piece >= SMALLEST_PIECE_BYTES:
            size = min(piece, left) // 4096 * 4096
            try:
                at = gpu.allocate(size)
            except cuda.CudaError as refused:
                if refused.number != cuda.OUT_OF_MEMORY:
                    raise
                piece = size // 2
                continue
            filling.pieces.append(Piece(at, size, filling.size // 4))
            left -= size
    if filling.size < free * (percent - 1) / 100:
        raise FailedError(
            "gpu_out_of_memory",
            f"cannot fill {percent:g} % of the memory of GPU {gpu.uuid}: "
            f"the driver gives {filling.size >> 20} of {free >> 20} MiB",
            remedy="see what holds it: nvidia-smi; reboot the machine if nothing does",
        )
    return filling


def run_pattern(fillings: list[Filling], kind: int, seed: int) -> None:
    """Fill; verify and turn upwards; verify and turn downwards; verify. All GPUs side by side."""
    same, opposite = 0, 0xFFFFFFFF
    for filling in fillings:
        filling.each("fill", kind, seed, same, has_found=False)
        filling.each("turn", kind, seed, same, 0)
        filling.each("turn", kind, seed, opposite, 1)
        filling.each("verify", kind, seed, same)
    for filling in fillings:
        filling.wait()


def judge(fillings: list[Filling], what: str) -> None:
    for filling in fillings:
        count, place, bits = filling.wrong()
        if count:
            talk.figure("memory_words_wrong", count, "words", filling.gpu.uuid)
            raise FailedError(
                "memory_wrong",
                f"cannot trust the memory of GPU {filling.gpu.uuid}: {count} of {filling.size // 4} words are wrong "
                f"with {what}, the first at byte {place} of what was filled, in the bits 0x{bits:08x}",
                remedy="see nvidia-smi -q -d ECC,ROW_REMAPPER; take back what overclocks it; else replace the GPU",
            )


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    seconds = float(arguments.get("seconds", 0 if arguments.get("quick") else SECONDS))
    fillings = [take(gpu, float(arguments.get("percent", PERCENT))) for gpu in gpus]
    most = int(arguments.get("rounds", ROUNDS))
    begin, rounds = time.monotonic(), 0
    while rounds == 0 or (rounds < most and time.monotonic() - begin < seconds):
        for number, (kind, seed) in enumerate(PATTERNS):
            run_pattern(fillings, kind, (seed + rounds) & 0xFFFFFFFF if kind != FIXED else seed)
            judge(fillings, f"pattern {number + 1} of {len(PATTERNS)}")
            share = (rounds + (number + 1) / len(PATTERNS)) / most if seconds else (number + 1) / len(PATTERNS)
            talk.progress(
                max(share, (time.monotonic() - begin) / seconds if seconds else 0.0),
                f"pattern {number + 1} of {len(PATTERNS)}, round {rounds + 1}",
            )
        rounds += 1
    for filling in fillings:
        talk.figure("memory_tested_percent", round(100 * filling.size / filling.total, 2), "%", filling.gpu.uuid)
        talk.figure("memory_tested_gb", round(filling.size / 1e9, 3), "GB", filling.gpu.uuid)
        talk.figure("memory_words_wrong", 0, "words", filling.gpu.uuid)
    least = min(100 * filling.size / filling.total for filling in fillings)
    return f"{least:.1f} % of the memory of {len(gpus)} GPUs held {rounds * len(PATTERNS)} patterns"


if __name__ == "__main__":
    talk.run(work)
