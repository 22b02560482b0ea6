"""Matrix products on one GPU, by its tensor cores where it has some, proven right. Standard library only.

Operands are whole numbers that every format here holds exactly, and the sums stay exact in singles (kernels/matrix.cu):
a right product is right in every bit, and the same on every GPU.
"""

import ctypes
import struct
from dataclasses import dataclass
from functools import cache

from kaalia.selftest.work.cuda import Event, Gpu
from kaalia.selftest.work.reference import operand
from kaalia.selftest.work.talk import FailedError

STEP = 256
"""Sizes are multiples of it: the widest tile of a kernel."""
SEED_A, SEED_B, SEED_X = 0x1234567, 0x89ABCDE, 0x5F5F5F
CHECKED_HERE = 8
"""Elements that are computed on the host too, so that a GPU is not its own judge alone."""
THREADS = 256
_CLEARED, _POISON = 0, 0xFF


@dataclass(frozen=True, slots=True)
class Kind:
    """How a product is made: the kernel, its operands' bytes, the tile of C of a block, its dynamic shared memory."""

    words: str
    module: str
    kernel: str
    operands: str
    bytes_each: int
    tile: tuple[int, int]
    shared: int = 0


BF16 = Kind("bf16 on tensor cores", "matrix80", "product_bf16", "operands_bf16", 2, (128, 256), 4 * 384 * 32 * 2)
FP16 = Kind("fp16 on tensor cores", "matrix70", "product_fp16", "operands_fp16", 2, (128, 128))
FP32 = Kind("fp32", "matrix", "product_fp32", "operands_fp32", 4, (128, 128))


def best(gpu: Gpu) -> Kind:
    """By compute capability."""
    if gpu.capability >= 80:
        return BF16
    return FP16 if gpu.capability >= 70 else FP32


class Product:
    """C = A B, `size` each way, in the memory of a GPU that is current."""

    def __init__(self, gpu: Gpu, kind: Kind, size: int) -> None:
        self.gpu, self.kind, self.size = gpu, kind, size
        self.flop = 2.0 * size**3
        self._bytes = size * size
        self._a, self._b = gpu.allocate(self._bytes * kind.bytes_each), gpu.allocate(self._bytes * kind.bytes_each)
        self._c, self._inner, self._found = gpu.allocate(self._bytes * 4), gpu.allocate(8 * size), gpu.allocate(16)
        blocks, count = gpu.multiprocessors * 8, ctypes.c_uint32(self._bytes)
        for block, seed in ((self._a, SEED_A), (self._b, SEED_B)):
            gpu.module("matrix").launch(kind.operands, blocks, THREADS, block, count, ctypes.c_uint32(seed))
        if kind.shared:
            gpu.module(kind.module).allow_shared(kind.kernel, kind.shared)
        self.poison()

    @staticmethod
    def needs(kind: Kind, size: int) -> int:
        """Bytes of memory."""
        return size * size * (2 * kind.bytes_each + 4) + 16 * size

    def free(self) -> None:
        for block in (self._a, self._b, self._c, self._inner, self._found):
            self.gpu.free(block)

    def launch(self) -> None:
        """Without waiting."""
        rows, columns = self.kind.tile
        blocks = (self.size // rows) * (self.size // columns)
        operands = (self._c, self._a, self._b, ctypes.c_uint32(self.size))
        self.gpu.module(self.kind.module).launch(self.kind.kernel, blocks, THREADS, *operands, shared=self.kind.shared)

    def poison(self) -> None:
        """So that what no kernel writes is not taken for right. No single of the product has these bits."""
        self.gpu.clear(self._c, self._bytes * 4, _POISON)

    def digest(self, to: ctypes.c_uint64) -> None:
        """Add the number of C's bits to the 8 bytes there, without waiting."""
        pieces = ctypes.c_uint64(self._bytes // 4)
        self.gpu.module("matrix").launch("digest", self.gpu.multiprocessors * 8, THREADS, to, self._c, pieces)

    def check(self) -> None:
        """That C is right: all of it on the GPU's other units, some of it here. Raises FailedError `matrix_wrong`."""
        self.gpu.clear(self._inner, 8 * self.size, _CLEARED)
        self.gpu.put(self._found, struct.pack("<QQ", 0, 2**64 - 1))
        module, size = self.gpu.module("matrix"), ctypes.c_uint32(self.size)
        seeds = (ctypes.c_uint32(SEED_B), ctypes.c_uint32(SEED_X))
        module.launch("check_inner", 32 * self.size // THREADS, THREADS, self._inner, size, *seeds)
        seeds = (ctypes.c_uint32(SEED_A), ctypes.c_uint32(SEED_X))
        rows = self.size * 32 // THREADS
        module.launch("check_rows", rows, THREADS, self._found, self._c, self._inner, size, *seeds)
        self.gpu.wait("checking a matrix product")
        count, first = struct.unpack("<QQ", self.gpu.get(self._found, 16))
        if count:
            raise self.wrong(f"{count} of {self.size} rows are wrong, the first is row {first}")
        for number in range(CHECKED_HERE):
            row, column = (number * 37 + 5) % self.size, (number * 101 + 3 * self.size // 4) % self.size
            is_now, should = self._element(row, column), _reference(self.size, row, column)
            if is_now != should:
                raise self.wrong(f"the element of row {row} and column {column} is {is_now:g}, not {should}")

    def wrong(self, what: str) -> FailedError:
        return FailedError(
            "matrix_wrong",
            f"cannot trust matrix products ({self.kind.words}) of GPU {self.gpu.uuid}: {what}",
            remedy="take back what overclocks or undervolts the GPU; see its heat and power supply; else replace it",
        )

    def _element(self, row: int, column: int) -> float:
        at = ctypes.c_uint64(self._c.value + 4 * (row * self.size + column))
        return float(struct.unpack("<f", self.gpu.get(at, 4))[0])


@cache
def _reference(size: int, row: int, column: int) -> int:
    """Tens of milliseconds, and the same for each GPU."""
    left, right = row * size, column * size
    return sum(operand(SEED_A, left + k) * operand(SEED_B, right + k) for k in range(size))


def largest(gpu: Gpu, kind: Kind, most: int, turn_s: float, share: float) -> Product:
    """A product that takes at most about `turn_s`, in a share of the free memory: a slow GPU gets a smaller one."""
    size = STEP
    free, _ = gpu.memory()
    begin, end = Event(gpu), Event(gpu)
    while True:
        product = Product(gpu, kind, size)
        product.launch()  # the first is slower
        begin.record()
        product.launch()
        end.record()
        end.wait("a matrix product")
        following = 2 * size
        if end.since_s(begin) > turn_s / 8 or following > most or Product.needs(kind, following) > free * share:
            return product
        product.free()
        size = following
