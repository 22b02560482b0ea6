"""Multiplies matrices on all GPUs at once for some minutes, and compares every product bit by bit.

Arguments: gpus, quick, `minutes` (0.25 when quick, else 1), `size` of the matrices at most (8192).
The first product is proven right (product.py); all others must have its digest. Each round, of about half a second, is
a sample: throughput in TFLOPS. Figures for each GPU: burn_tflops (mean of the rounds), burn_tflops_least (the slowest
round), burn_products (how many were compared).
"""

import ctypes
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, talk
from kaalia.selftest.work.cuda import Event, Gpu
from kaalia.selftest.work.product import Product, best, largest
from kaalia.selftest.work.timing import spread

MINUTES, QUICK_MINUTES = 1.0, 0.25
MOST_SIZE, TURN_S, SHARE = 8192, 0.1, 0.5
ROUND_S = 0.5
ALL = 2**64


class Round:
    """Products that are on their way, and where their digest arrives."""

    def __init__(self, gpu: Gpu) -> None:
        self.begin, self.end, self.arrived = Event(gpu), Event(gpu), Event(gpu)
        self.sum, self.host = gpu.allocate(8), gpu.pinned(8)


class Burner:
    """One GPU. Two rounds are on their way, so that it never waits for the host."""

    def __init__(self, gpu: Gpu, most: int) -> None:
        with gpu:
            self.gpu, self.rates = gpu, list[float]()
            self.product: Product = largest(gpu, best(gpu), most, TURN_S, SHARE)
            self._rounds = [Round(gpu), Round(gpu)]
            self.count, self._launched, self._ended = 1, 0, 0
            self._put(self._rounds[0])
            self._take(self._rounds[0])
            self.product.check()
            self._digest = self._read(self._rounds[0])
            self.count = max(1, round(ROUND_S * self.rates.pop()))
        self.products = 0

    def launch(self) -> None:
        with self.gpu:
            self._put(self._rounds[self._launched % 2])
            self._launched += 1

    def end(self) -> float:
        """Wait for the oldest round, compare it, and return its TFLOPS. Raises FailedError `matrix_wrong`."""
        with self.gpu:
            one = self._rounds[self._ended % 2]
            self._take(one)
            self._ended += 1
            if self._read(one) != self._digest * self.count % ALL:
                raise self.product.wrong(
                    f"one of {self.count} products of round {self._ended} is not the same as the first, bit by bit"
                )
        self.products += self.count
        return self.rates[-1] * self.product.flop / 1e12

    def _put(self, one: Round) -> None:
        self.gpu.clear(one.sum, 8)
        self.product.poison()
        one.begin.record()
        for _ in range(self.count):
            self.product.launch()
            self.product.digest(one.sum)
        one.end.record()
        self.gpu.bring_down(one.host, one.sum, 8)
        one.arrived.record()

    def _take(self, one: Round) -> None:
        one.arrived.wait("burning")
        self.rates.append(self.count / max(one.end.since_s(one.begin), 1e-9))

    def _read(self, one: Round) -> int:
        return ctypes.c_uint64.from_address(one.host).value


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    seconds = 60 * float(arguments.get("minutes", QUICK_MINUTES if arguments.get("quick") else MINUTES))
    burners = [Burner(gpu, int(arguments.get("size", MOST_SIZE))) for gpu in gpus]
    begin = time.monotonic()
    for burner in burners:
        burner.launch()
    while (passed := time.monotonic() - begin) < seconds or not burners[0].products:
        for burner in burners:
            burner.launch()
        for burner in burners:
            tflops = burner.end()
            talk.sample(time.monotonic() - begin, burner.gpu.uuid, throughput=round(tflops, 6))
        talk.progress(passed / seconds if seconds else 1.0, f"{sum(one.products for one in burners)} products compared")
    for burner in burners:
        burner.end()
        scale = burner.product.flop / 1e12
        mean = round(statistics.fmean(burner.rates) * scale, 6)
        talk.figure("burn_tflops", mean, "TFLOPS", burner.gpu.uuid, spread(burner.rates))
        talk.figure("burn_tflops_least", round(min(burner.rates) * scale, 6), "TFLOPS", burner.gpu.uuid)
        talk.figure("burn_products", burner.products, "products", burner.gpu.uuid)
    return f"{sum(one.products for one in burners)} products of {len(gpus)} GPUs were right, for {passed:.0f} s"


if __name__ == "__main__":
    talk.run(work)
