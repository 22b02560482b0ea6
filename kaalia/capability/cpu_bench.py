"""The child that measures the CPU: hashes and compresses blocks of known bytes, with one core and then with all.

Argument: seconds for each of the four parts. One line of JSON on stdout: {"single": PART, "all": PART, "ghz": [GHz of
each core while all work], "cores": n}, with PART = {"sha256_mbps": [rate of each round], "zlib_mbps": [...]}.
Imports nothing of kaalia. Threads suffice: both release the interpreter while they work.
"""

import hashlib
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable

ROUNDS = 5
BLOCK_BYTES = 1 << 20


def main() -> None:
    seconds = float(sys.argv[1])
    os.nice(19)
    cores = len(os.sched_getaffinity(0))
    found: dict[str, object] = {"cores": cores, "single": _part(1, seconds)}
    ghz: list[list[float]] = []
    found["all"] = _part(cores, seconds, lambda: ghz.append(_ghz()))
    found["ghz"] = ghz[len(ghz) // 2] if ghz else []
    sys.stdout.write(json.dumps(found) + "\n")


def _part(threads: int, seconds: float, look: Callable[[], object] = lambda: None) -> dict[str, list[float]]:
    noise, text = _noise(), _text()
    works: dict[str, Callable[[], object]] = {
        "sha256_mbps": lambda: hashlib.sha256(noise).digest(),
        "zlib_mbps": lambda: zlib.compress(text, 6),
    }
    return {
        name: [_round(work, threads, seconds / ROUNDS, look) for _ in range(ROUNDS)] for name, work in works.items()
    }


def _round(work: Callable[[], object], threads: int, seconds: float, look: Callable[[], object]) -> float:
    """10^6 bytes a second that all threads together did. Each ends with the block that it has begun."""
    rates: list[float] = []

    def run() -> None:
        begin = time.perf_counter()
        blocks, now = 0, begin
        while now - begin < seconds:
            work()
            blocks, now = blocks + 1, time.perf_counter()
        rates.append(blocks * BLOCK_BYTES / (now - begin) / 1e6)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    time.sleep(seconds / 2)
    look()
    for thread in running:
        thread.join()
    return sum(rates)


def _noise() -> bytes:
    """The same on each machine, and nothing that compresses."""
    return b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(BLOCK_BYTES // 32))


def _text() -> bytes:
    """The same on each machine: half noise in hex, half repetition, so that it compresses about as text does."""
    lines = (
        hashlib.sha256(number.to_bytes(4, "big")).hexdigest() + " the same words again\n" for number in range(1 << 14)
    )
    return "".join(lines).encode()[:BLOCK_BYTES]


def _ghz() -> list[float]:
    """Of each core at this moment, as the kernel tells it; empty where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 pathlib costs the child its start
            return sorted(float(line.partition(":")[2]) / 1000 for line in file if line.startswith("cpu MHz"))
    except (OSError, ValueError):
        return []


if __name__ == "__main__":
    main()
