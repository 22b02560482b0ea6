"""How fast bytes go from each GPU to each other, pair by pair, and whether they arrive.

Arguments: gpus, quick, `bytes` of the block at most (256 MiB, or a quarter of what is free); a slow way: less.
GPUs that do not see each other's memory copy by way of the host, which is no fault: GeForce boards do so.
Figures: peer_gbps for each GPU (the slowest of its ways out), 10^9 bytes a second; peer_direct_percent of all pairs.
"""

import sys
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, pattern, talk
from kaalia.selftest.work.cuda import Gpu
from kaalia.selftest.work.talk import SkippedError
from kaalia.selftest.work.timing import fitting, rate

MOST_BYTES, SHARE = 256 << 20, 0.25
ROUNDS, ROUND_S = 5, 0.06
QUICK_ROUNDS, QUICK_ROUND_S = 2, 0.03


class End:
    """A GPU with a block that it gives and one that it gets."""

    def __init__(self, gpu: Gpu, most: int, seed: int) -> None:
        with gpu:
            self.gpu, self.seed, self.finds = gpu, seed, pattern.Finds(gpu)
            self.size = pattern.part(gpu, SHARE, most)
            self.given, self.got = gpu.allocate(self.size), gpu.allocate(self.size)
            pattern.fill(gpu, self.given, self.size, seed)
            gpu.wait("filling a block")


@dataclass(frozen=True, slots=True)
class Way:
    """From one GPU to another: 10^9 bytes a second, their spread, the bytes that were copied at once."""

    gbps: float
    spread: float | None
    size: int


def measure(source: End, target: End, *, quick: bool) -> Way:
    """Raises FailedError, also `peer_wrong`."""
    size = min(source.size, target.size)
    with target.gpu:
        target.gpu.clear(target.got, size)
        target.gpu.wait("clearing a block")
    with source.gpu:
        shape = (QUICK_ROUNDS, QUICK_ROUND_S) if quick else (ROUNDS, ROUND_S)

        def copy(count: int) -> None:
            source.gpu.copy_to(target.gpu, target.got, source.given, count)

        size = fitting(source.gpu, copy, size, "copying to another GPU")
        found = rate(source.gpu, lambda: copy(size), "copying to another GPU", *shape)
    with target.gpu:
        pattern.verify(target.gpu, target.finds, target.got, size, source.seed)
        target.gpu.wait("verifying what came")
        target.finds.refuse("peer_wrong", f"copies from GPU {source.gpu.uuid} to GPU {target.gpu.uuid}", cuda.PEERS)
    return Way(size * found.per_s / 1e9, found.spread, size)


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    if len(gpus) < 2:
        raise SkippedError("there is one GPU, and no other to copy to")
    direct = sum(one.can_reach(other) for one, other in permutations(gpus, 2))
    most = int(arguments.get("bytes", MOST_BYTES))
    ends = [End(gpu, most, 20 + number) for number, gpu in enumerate(gpus)]
    pairs = list(permutations(ends, 2))
    slowest: dict[str, Way] = {}
    for number, (source, target) in enumerate(pairs):
        talk.progress(number / len(pairs), f"pair {number + 1} of {len(pairs)}")
        found = measure(source, target, quick=bool(arguments.get("quick")))
        known = slowest.get(source.gpu.uuid)
        if known is None or found.gbps < known.gbps:
            slowest[source.gpu.uuid] = found
    for uuid, way in slowest.items():
        talk.figure("peer_gbps", round(way.gbps, 3), "GB/s", uuid, way.spread)
    talk.figure("peer_direct_percent", round(100 * direct / len(pairs), 1), "%")
    least = min(slowest.values(), key=lambda way: way.gbps)
    return (
        f"{len(pairs)} ways between GPUs, {direct} of them direct, move {least.gbps:.3g} GB/s or more, "
        f"the slowest in blocks of {least.size >> 10} KiB"
    )


if __name__ == "__main__":
    talk.run(work)
