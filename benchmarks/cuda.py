"""The self-test's GPU programs beside PyTorch on the same card: matrix products, copies within it and to the host.

On a machine with a GPU and PyTorch, which nobody else uses: `python3 -m benchmarks.cuda [--turns 3]`. It needs nothing
of kaalia's own environment. Both sides take turns; ratios are of the medians. Prints a table and one JSON line last;
exit code 1 when a bar is missed, 2 when there is nothing to measure with.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORK = Path(__file__).resolve().parents[1] / "kaalia/selftest/work"
BARS = {
    "matrix_tflops": 0.6,
    "device_bandwidth_gbps": 0.9,
    "host_to_device_gbps": 0.95,
    "device_to_host_gbps": 0.95,
}
PROGRAMS = ("matrix", "device_bandwidth", "host_bandwidth")
CORRECT = ("compute", "memory", "burn")
PROGRAM_S = 300
TORCH = """
import json, statistics, torch

def rate(work, rounds=7, round_s=0.3):
    def turns(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    turns(2)
    count = max(1, round(round_s / turns(1)))
    return statistics.median(count / turns(count) for _ in range(rounds))

size = 8192
a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
found = {"matrix_tflops": rate(lambda: torch.mm(a, b.t())) * 2 * size**3 / 1e12}
del a, b
big = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_(0, 255)
other = torch.empty_like(big)
found["device_bandwidth_gbps"] = rate(lambda: other.copy_(big)) * 2 * big.numel() / 1e9
part = 256 << 20
host = torch.empty(part, dtype=torch.uint8, pin_memory=True)
found["host_to_device_gbps"] = rate(lambda: big[:part].copy_(host, non_blocking=True)) * part / 1e9
found["device_to_host_gbps"] = rate(lambda: host.copy_(big[:part], non_blocking=True)) * part / 1e9
print(json.dumps({"found": found, "torch": torch.__version__, "gpu": torch.cuda.get_device_name()}))
"""
"""PyTorch has a process of its own: it would keep memory that the programs then lack."""


def program(name: str, **arguments: object) -> tuple[dict[str, float], str]:
    """The least of each figure over the GPUs, and the words at its end. Exits where it fails."""
    argv = [sys.executable, "-I", "-S", str(WORK / f"{name}.py"), json.dumps(arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if not lines or lines[-1].get("end") != "passed":
        print(f"{name}: {lines[-1] if lines else done.stderr}", file=sys.stderr)
        sys.exit(2)
    figures: dict[str, float] = {}
    for line in lines:
        if one := line.get("figure"):
            figures[one["name"]] = min(one["value"], figures.get(one["name"], one["value"]))
    return figures, str(lines[-1]["words"])


def torch() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=PROGRAM_S, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        sys.exit(2)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    if importlib.util.find_spec("torch") is None:
        print("there is no PyTorch here: run it with a Python that has it", file=sys.stderr)
        return 2
    took: dict[str, float] = {}
    for name in CORRECT:
        begin = time.perf_counter()
        _, words = program(name, quick=True)
        took[name] = round(time.perf_counter() - begin, 1)
        print(f"{name} ({took[name]} s): {words}")
    ours: dict[str, list[float]] = {name: [] for name in BARS}
    theirs: dict[str, list[float]] = {name: [] for name in BARS}
    about: dict[str, Any] = {}
    for _ in range(turns):
        for one in PROGRAMS:
            figures, _ = program(one)
            for name in BARS.keys() & figures.keys():
                ours[name].append(figures[name])
        about = torch()
        for name in BARS:
            theirs[name].append(about["found"][name])
    ratios = {name: round(statistics.median(ours[name]) / statistics.median(theirs[name]), 3) for name in BARS}
    print(f"{about['gpu']}, PyTorch {about['torch']}\n{'figure':24}{'kaalia':>10}{'PyTorch':>10}{'ratio':>8}{'bar':>6}")
    for name, bar in BARS.items():
        mine, other = statistics.median(ours[name]), statistics.median(theirs[name])
        print(f"{name:24}{mine:10.1f}{other:10.1f}{ratios[name]:8.2f}{bar:6.2f}")
    print(json.dumps({"gpu": about["gpu"], "ratios": ratios, "kaalia": ours, "torch": theirs, "took_s": took}))
    return 0 if all(ratios[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
