"""Tries every multiprocessor with arithmetic whose results are known bit by bit.

Arguments: gpus, quick, `rounds` of fresh numbers (1 when quick, else 5), `steps` of each chain (64).

The references are computed here, by the same steps. Whole numbers and each operation of singles and doubles (IEEE 754:
add, multiply, fused multiply-add, divide, square root) have one right result; only the special functions are
approximate, and stay within the errors that NVIDIA's PTX ISA gives (ex2.approx 2^-22.5 and rsqrt.approx 2^-22.9 of the
value, sin.approx 2^-20.5 in all; here 2^-18 each, since arguments are rounded too), and are the same on every
multiprocessor. Figure for each GPU: compute_results (how many were compared).
"""

import ctypes
import math
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, talk
from kaalia.selftest.work.cuda import Gpu
from kaalia.selftest.work.reference import mix
from kaalia.selftest.work.talk import FailedError

THREADS, BLOCKS_EACH = 256, 8
ROUNDS, STEPS = 5, 64
TOLERANCE = 2.0**-18
MASK, WIDE = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_libm = ctypes.CDLL("libm.so.6")
_libm.fmaf.argtypes, _libm.fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float
_libm.fma.argtypes, _libm.fma.restype = [ctypes.c_double] * 3, ctypes.c_double


def single(value: float) -> float:
    """The nearest single. One +, -, *, / or root of singles, done in doubles, rounds to the right one (2p + 2 bits)."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def single_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def double_bits(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def integers(thread: int, seed: int, steps: int) -> int:
    a = mix(thread ^ seed)
    b = mix((a + 1) & MASK)
    for i in range(steps):
        a = (a * 1664525 + 1013904223) & MASK
        b ^= a * (b | 1) >> 32
        b = (b << 7 | b >> 25) & MASK
        a = (a + b.bit_count()) & MASK
        b = (b + a // ((b >> 24) + 3)) & MASK
        wide = (a * b + i) & WIDE
        a ^= wide >> 32
        b = (b + int(f"{wide & MASK:032b}"[::-1], 2)) & MASK
    return a ^ b


def singles(thread: int, seed: int, steps: int) -> int:
    x, s, rate = single(single((mix(thread ^ seed) >> 8) + 1.0) / 16777218.0), 0.0, single(3.9)
    for _ in range(steps):
        x = single(single(rate * x) * single(1.0 - x))
        root = single(math.sqrt(x))
        part = single(x / single(1.0 + root))
        s = float(_libm.fmaf(part, root, single(0.5 * s)))
    return single_bits(x) ^ (single_bits(s) * 3 & MASK)


def doubles(thread: int, seed: int, steps: int) -> int:
    x, s = (mix(thread ^ seed) + 1.0) / 4294967298.0, 0.0
    for _ in range(steps):
        x = (3.9 * x) * (1.0 - x)
        root = math.sqrt(x)
        s = float(_libm.fma(x / (1.0 + root), root, 0.5 * s))
    return double_bits(x) ^ (double_bits(s) * 3 & WIDE)


def exchange(seed: int, steps: int) -> list[int]:
    """Of all threads of a block: they depend on each other."""
    mine = [mix(thread ^ seed) for thread in range(THREADS)]
    for i in range(steps):
        mine = [(mine[t] * 5 + mine[(t * 33 + 17 + i) & 255]) & MASK for t in range(THREADS)]
        mine = [mine[t] ^ mine[t ^ (i & 31 | 1)] for t in range(THREADS)]
    return mine


def counters(seed: int, steps: int, blocks: int) -> list[int]:
    """32 sums, and 32 greatest numbers."""
    sums, greatest = [0] * 32, [0] * 32
    for thread in range(THREADS):
        mine = mix(thread ^ seed)
        for i in range(steps):
            place = (thread + i) & 31
            sums[place] = (sums[place] + mine * blocks) & WIDE
            greatest[place] = max(greatest[place], mine + i)
    return sums + greatest


def functions(seed: int) -> list[float]:
    values: list[float] = []
    for thread in range(THREADS):
        x = (mix(thread ^ seed) >> 8) / 16777216.0
        values += [2.0**x, 1 / math.sqrt(x + 0.5), math.sin(6 * x - 3)]
    return values


class Trial:
    """One GPU with room for its results."""

    def __init__(self, gpu: Gpu, steps: int) -> None:
        self.gpu, self.steps, self.compared = gpu, steps, 0
        self.blocks = gpu.multiprocessors * BLOCKS_EACH
        with gpu:
            gpu.module("compute")
            self.room = gpu.allocate(self.blocks * THREADS * 12)

    def run(self, kernel: str, size: int, *arguments: int) -> bytes:
        """What the kernel leaves in the first `size` bytes. `arguments`: unsigned, of 32 bits."""
        with self.gpu as gpu:
            gpu.clear(self.room, size)
            given = (ctypes.c_uint32(one) for one in arguments)
            gpu.module("compute").launch(kernel, self.blocks, THREADS, self.room, *given)
            gpu.wait(f"the arithmetic of {kernel}")
            return gpu.get(self.room, size)

    def exact(self, kernel: str, form: str, expected: Sequence[int], seed: int, copies: int) -> None:
        """Every block is to say what is `expected`, `copies` times."""
        one = struct.pack(f"<{len(expected)}{form}", *expected)
        found = self.run(kernel, len(one) * copies, seed, self.steps)
        self.compared += len(expected) * copies
        if found == one * copies:
            return
        width = len(one) // len(expected)
        whole = one * copies
        wrong = [at for at in range(0, len(found), width) if found[at : at + width] != whole[at : at + width]]
        first = wrong[0] // width
        (is_now,), should = struct.unpack_from(f"<{form}", found, wrong[0]), expected[first % len(expected)]
        raise _untrue(self.gpu, kernel, f"{len(wrong)} of {len(expected) * copies}", first, is_now, should)

    def near(self, seed: int) -> None:
        expected = functions(seed)
        size = 4 * len(expected)
        found = self.run("functions", size * self.blocks, seed)
        self.compared += len(expected) * self.blocks
        first = struct.unpack(f"<{len(expected)}f", found[:size])
        for number, (value, should) in enumerate(zip(first, expected, strict=True)):
            if not abs(value - should) <= TOLERANCE * max(1.0, abs(should)):
                raise _untrue(self.gpu, "functions", "one or more", number, value, should)
        for block in range(1, self.blocks):
            if found[block * size : (block + 1) * size] != found[:size]:
                raise _untrue(self.gpu, "functions", "some", block * len(expected), "another", "the first block's")

    def round(self, seed: int, references: "References") -> None:
        self.exact("integers", "I", references.integers, seed, self.blocks)
        self.exact("singles", "I", references.singles, seed, self.blocks)
        self.exact("doubles", "Q", references.doubles, seed, self.blocks)
        self.exact("exchange", "I", references.exchange, seed, self.blocks)
        self.exact("counters", "Q", counters(seed, self.steps, self.blocks), seed, 1)
        self.near(seed)


class References:
    """What each thread of a block is to find."""

    def __init__(self, seed: int, steps: int) -> None:
        def of_all(chain: Callable[[int, int, int], int]) -> list[int]:
            return [chain(thread, seed, steps) for thread in range(THREADS)]

        self.integers, self.singles, self.doubles = of_all(integers), of_all(singles), of_all(doubles)
        self.exchange = exchange(seed, steps)


def _untrue(gpu: Gpu, kernel: str, how_many: str, first: int, is_now: object, should: object) -> FailedError:
    return FailedError(
        "compute_wrong",
        f"cannot trust the arithmetic of GPU {gpu.uuid}: {how_many} results of {kernel} are wrong, the first is number "
        f"{first}: {is_now}, not {should}",
        remedy="take back what overclocks or undervolts the GPU; see its heat and power supply; else replace it",
    )


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    rounds = int(arguments.get("rounds", 1 if arguments.get("quick") else ROUNDS))
    steps = int(arguments.get("steps", STEPS))
    trials = [Trial(gpu, steps) for gpu in gpus]
    for number in range(rounds):
        seed = mix(number + 1)
        references = References(seed, steps)
        for trial in trials:
            trial.round(seed, references)
        talk.progress((number + 1) / rounds, f"round {number + 1} of {rounds}")
    for trial in trials:
        talk.figure("compute_results", trial.compared, "results", trial.gpu.uuid)
    return f"{sum(trial.compared for trial in trials)} results of {len(gpus)} GPUs are right"


if __name__ == "__main__":
    talk.run(work)
