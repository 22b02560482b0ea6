"""All GPUs add up what each of them has, in a ring, as training does (all-reduce); each verifies the sums.

Arguments: gpus, quick, `bytes` of each GPU's numbers at most (1 GiB, or a quarter of what is free); slow links: less.
Figures: collective_bus_gbps, 10^9 bytes a second that each GPU sends, as NCCL's tests count; collective_gpus.
The numbers are whole and their sums modulo 2^32: any order of adding gives the same bits. The GPUs wait for each other
by events, so that the host, which looks every few milliseconds only, is no part of what is measured.
"""

import ctypes
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, pattern, talk
from kaalia.selftest.work.cuda import Event, Gpu, Stream
from kaalia.selftest.work.talk import SkippedError
from kaalia.selftest.work.timing import spread

MOST_BYTES, SHARE = 1 << 30, 0.25
SAMPLE_BYTES = 16 << 20
ROUNDS, QUICK_ROUNDS, ROUND_S = 5, 2, 1.0
"""ROUND_S: at most, by what the first round shows, which is of SAMPLE_BYTES and warms up."""
SEED = 31


class Rank:
    """One GPU's numbers in as many parts as there are GPUs, and room for what its neighbour sends. `chunk`: bytes of a
    part."""

    def __init__(self, gpu: Gpu, number: int, count: int, chunk: int) -> None:
        with gpu:
            self.gpu, self.number, self.chunk = gpu, number, chunk
            self.stream, self.finds = Stream(gpu), pattern.Finds(gpu)
            self.sent, self.added = Event(gpu), Event(gpu)
            self.numbers, self.room = gpu.allocate(chunk * count), gpu.allocate(chunk)

    def part(self, index: int) -> ctypes.c_uint64:
        return ctypes.c_uint64(self.numbers.value + index * self.chunk)

    def send(self, to: "Rank", index: int, target: ctypes.c_uint64) -> None:
        """After `to` has added what was sent to it before."""
        with self.gpu:
            self.stream.follow(to.added)
            self.gpu.copy_to(to.gpu, target, self.part(index), self.chunk, self.stream)
            self.sent.record(self.stream)

    def get(self, before: "Rank") -> None:
        """What comes next waits for what `before` has sent until now."""
        with self.gpu:
            self.stream.follow(before.sent)

    def add(self, index: int) -> None:
        with self.gpu:
            count = ctypes.c_uint64(self.chunk // pattern.PIECE)
            pattern.launch(self.gpu, "add", self.part(index), self.room, count, stream=self.stream)
            self.added.record(self.stream)

    def wait(self) -> None:
        with self.gpu:
            self.stream.wait("the sum of all GPUs")


def together(ranks: list[Rank]) -> None:
    """Sum part by part: first everybody has one part that is whole, then everybody gets all parts.

    Of each turn all wait for what was sent before any sends: who waited for what is sent in the same turn would make a
    chain of the ring.
    """
    count = len(ranks)
    for turn in range(count - 1):
        for rank in ranks:
            to = ranks[(rank.number + 1) % count]
            rank.send(to, (rank.number - turn) % count, to.room)
        for rank in ranks:
            rank.get(ranks[rank.number - 1])
            rank.add((rank.number - 1 - turn) % count)
    for turn in range(count - 1):
        for rank in ranks if turn else ():
            rank.get(ranks[rank.number - 1])
        for rank in ranks:
            to, index = ranks[(rank.number + 1) % count], (rank.number + 1 - turn) % count
            rank.send(to, index, to.part(index))
    for rank in ranks:
        rank.wait()


def fill(ranks: list[Rank], size: int) -> None:
    for rank in ranks:
        with rank.gpu as gpu:
            pattern.fill(gpu, rank.numbers, size, SEED + rank.number)
            gpu.clear(rank.room, rank.chunk)
            gpu.wait("filling a block")


def verify(ranks: list[Rank], size: int) -> None:
    for rank in ranks:
        with rank.gpu as gpu:
            shape = (ctypes.c_uint64(size // pattern.PIECE), ctypes.c_uint32(SEED), ctypes.c_uint32(len(ranks)))
            pattern.launch(gpu, "verify_sum", rank.finds.at, rank.numbers, *shape)
            gpu.wait("verifying the sum")
            rank.finds.refuse(
                "collective_wrong",
                f"the sum of all GPUs on GPU {gpu.uuid}",
                cuda.PEERS,
            )


def once(ranks: list[Rank], chunk: int) -> float:
    """Seconds that a sum of parts of `chunk` bytes takes. Raises FailedError, also `collective_wrong`."""
    size = chunk * len(ranks)
    for rank in ranks:
        rank.chunk = chunk
    fill(ranks, size)
    begin = time.perf_counter()
    together(ranks)
    took_s = time.perf_counter() - begin
    verify(ranks, size)
    return took_s


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    count = len(gpus)
    if count < 2:
        raise SkippedError("there is one GPU, and no other to work with")
    for one in gpus:
        for other in gpus:
            if one is not other:
                one.can_reach(other)
    least = MOST_BYTES
    for gpu in gpus:
        with gpu:
            least = min(least, pattern.part(gpu, SHARE, int(arguments.get("bytes", MOST_BYTES))))
    most = _part(least, count)
    ranks = [Rank(gpu, number, count, most) for number, gpu in enumerate(gpus)]
    rounds = QUICK_ROUNDS if arguments.get("quick") else ROUNDS
    rates: list[float] = []
    chunk = min(most, _part(SAMPLE_BYTES, count))
    for number in range(rounds + 1):
        took_s = once(ranks, chunk)
        rates.append(2 * (count - 1) * chunk / took_s / 1e9)
        if number == 0:
            chunk = min(most, max(chunk, _part(int(chunk * count * ROUND_S / took_s), count)))
        talk.progress((number + 1) / (rounds + 1), f"round {number + 1} of {rounds + 1}")
    value = statistics.median(rates[1:])
    talk.figure("collective_bus_gbps", round(value, 3), "GB/s", spread=spread(rates[1:]))
    talk.figure("collective_gpus", count, "GPUs")
    return f"{count} GPUs agree on the sum of {chunk * count >> 10} KiB of each"


def _part(size: int, count: int) -> int:
    return size // count // pattern.PIECE * pattern.PIECE


if __name__ == "__main__":
    talk.run(work)
