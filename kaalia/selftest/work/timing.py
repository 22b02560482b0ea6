"""How often a GPU does a thing in a second, by its own clock. Standard library only."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kaalia.selftest.work.cuda import Event, Gpu
from kaalia.selftest.work.pattern import WHOLE

MOST_TURNS = 1000
SAMPLE_BYTES, TURN_S = 4 << 20, 0.05
"""What is copied to see how fast a link is, and how long a copy over it may then take."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_s`: median of the rounds; `spread`: their standard deviation as a share of the mean, None of one round."""

    per_s: float
    spread: float | None


def rate(gpu: Gpu, work: Callable[[], None], what: str, rounds: int, round_s: float) -> Rate:
    """`work` puts one turn into the GPU's own stream, and is done before any counts; a round takes about `round_s`."""
    begin, end = Event(gpu), Event(gpu)

    def turns(count: int) -> float:
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.wait(what)
        return max(end.since_s(begin), 1e-9)

    turns(1)
    count = min(max(round(round_s / turns(1)), 1), MOST_TURNS)
    found = [count / turns(count) for _ in range(rounds)]
    return Rate(statistics.median(found), spread(found))


def fitting(gpu: Gpu, copy: Callable[[int], None], size: int, what: str) -> int:
    """How many bytes of a block to copy at once: `size`, over a slow link fewer, so that a copy takes about TURN_S.

    Else a machine with many GPUs on one lane each would be taken for one that hangs. `copy` is work as for `rate`.
    """
    sample = min(size, SAMPLE_BYTES)
    per_s = sample * rate(gpu, lambda: copy(sample), what, rounds=1, round_s=0.0).per_s
    return min(size, max(sample, int(per_s * TURN_S) // WHOLE * WHOLE))


def spread(values: Sequence[float]) -> float | None:
    mean = statistics.fmean(values)
    return round(statistics.stdev(values) / mean, 4) if len(values) > 1 else None
