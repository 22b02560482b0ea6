"""How fast each GPU multiplies matrices, and whether they are right: tensor cores where it has some, and in singles.

Arguments: gpus, quick, `size` of the matrices at most (8192); a GPU that takes long gets smaller ones.
From sm_80 on bf16, on sm_70 and sm_75 fp16, both with sums in singles; on older ones singles only.
Figures for each GPU: matrix_tflops, single_tflops (10^12 floating-point operations a second), matrix_size.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from kaalia.selftest.work import cuda, talk
from kaalia.selftest.work.cuda import Gpu
from kaalia.selftest.work.product import FP32, Kind, Product, best, largest
from kaalia.selftest.work.timing import Rate, rate

MOST_SIZE, TURN_S, SHARE = 8192, 0.1, 0.5
ROUNDS, ROUND_S = 5, 0.3
QUICK_ROUNDS, QUICK_ROUND_S = 3, 0.1


def measure(gpu: Gpu, kind: Kind, most: int, *, quick: bool) -> tuple[Product, Rate]:
    """Raises FailedError, also `matrix_wrong`."""
    with gpu:
        product = largest(gpu, kind, most, TURN_S, SHARE)
        product.poison()
        shape = (QUICK_ROUNDS, QUICK_ROUND_S) if quick else (ROUNDS, ROUND_S)
        found = rate(gpu, product.launch, "multiplying matrices", *shape)
        product.check()
        product.free()
    return product, found


def work(arguments: dict[str, Any]) -> str:
    gpus = cuda.gpus(arguments)
    most, quick = int(arguments.get("size", MOST_SIZE)), bool(arguments.get("quick"))
    slowest, words = float("inf"), ""
    for number, gpu in enumerate(gpus):
        kind = best(gpu)
        talk.progress(number / len(gpus), f"GPU {number + 1} of {len(gpus)}, {kind.words}")
        product, found = measure(gpu, kind, most, quick=quick)
        value = round(product.flop * found.per_s / 1e12, 6)
        talk.figure("matrix_tflops", value, "TFLOPS", gpu.uuid, found.spread)
        talk.figure("matrix_size", product.size, "rows", gpu.uuid)
        if value < slowest:
            slowest, words = value, kind.words
        if kind is not FP32:
            talk.progress((number + 0.6) / len(gpus), f"GPU {number + 1} of {len(gpus)}, {FP32.words}")
            product, found = measure(gpu, FP32, most, quick=quick)
        talk.figure(
            "single_tflops", round(product.flop * found.per_s / 1e12, 6), "TFLOPS", gpu.uuid, spread=found.spread
        )
    return f"{len(gpus)} GPUs multiply matrices rightly, with {slowest:.4g} TFLOPS or more ({words})"


if __name__ == "__main__":
    talk.run(work)
