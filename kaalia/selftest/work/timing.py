"""How often a GPU does a thing in a second, by its own clock. Standard library only."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kaalia.selftest.work.cuda import Event, Gpu

MOST_TURNS = 1000


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


def spread(values: Sequence[float]) -> float | None:
    mean = statistics.fmean(values)
    return round(statistics.stdev(values) / mean, 4) if len(values) > 1 else None
