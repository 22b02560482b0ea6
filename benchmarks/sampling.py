"""What it costs to sample 8 GPUs and 50 containers each 5 s: CPU of the daemon and of all below it, and memory.

1. a look at the driver (8 simulated GPUs with every counter), as `capability.watch` makes it;
2. what 50 containers use, from their cgroups, as for `/metrics`;
3. whether 50 containers may still use their GPUs, each 45 s, as `health.gpu_inside` looks;
4. a whole reading of the driver, for comparison.

Needs root and cgroups of its own: `scripts/bench sampling [--looks N]`. Prints a table and one JSON line last.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import gpu_inside
from benchmarks.gpu_inside import CGROUPS, IDS
from benchmarks.idle import cpu_s, family, pss_mb
from kaalia.capability.watch import GpuWatchService
from kaalia.clock import SystemClock
from kaalia.host import cgroup, nvml_look
from kaalia.host.nvml import NvmlProbe
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import machine, well, write

GPUS = 8
EVERY_S = 5.0
CPU_LIMIT_PERCENT = 0.5


async def measure(folder: Path, looks: int) -> dict[str, Any]:
    write(folder / "profile", well(machine(f"{GPUS}xH100"), GPUS))
    probe = NvmlProbe(env=os.environ | environment(build(folder), folder / "profile"))
    changes = Changes()
    database = Database(folder / "state.db", changes)
    await database.open()
    watch = GpuWatchService(database, changes, SystemClock(), probe, EVERY_S)
    await watch.look()
    look = await cost(watch.look, looks)
    looker_mb = sum(map(pss_mb, lookers()))
    use = await cost(used, looks)
    read = await cost(probe.read, max(5, looks // 10))
    await probe.rest()
    await database.close()
    return {"look": look, "use": use, "read": read, "looker_mb": round(looker_mb, 1)}


async def used() -> None:
    found = await asyncio.to_thread(cgroup.usages, IDS)
    if len(found) != len(IDS):
        raise RuntimeError(f"{len(found)} of {len(IDS)} containers were found")


@contextmanager
def accounted() -> Iterator[None]:
    """Cgroups that count, as containers have them."""
    is_second = (CGROUPS / "cgroup.controllers").exists()
    trees = [CGROUPS] if is_second else [CGROUPS / "cpuacct", CGROUPS / "memory"]
    made = [tree / "docker" / container_id for tree in trees for container_id in IDS]
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in made:
            folder.rmdir()


async def cost(work: Callable[[], Awaitable[object]], times: int) -> dict[str, float]:
    """CPU of this process and of all below it, those that stay and those that ended; and time."""
    walls, before = [], whole_cpu_s()
    for _ in range(times):
        began = time.perf_counter()
        await work()
        walls.append((time.perf_counter() - began) * 1000)
    cpu_ms = (whole_cpu_s() - before) / times * 1000
    return {"cpu_ms": round(cpu_ms, 2), "wall_ms": round(statistics.median(walls), 2)}


def whole_cpu_s() -> float:
    """Of this process and of those that ended to the microsecond; of one that stays by the ticks of the clock."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in parts) + sum(map(cpu_s, lookers()))


def lookers() -> list[int]:
    name = nvml_look.CHILD.name.encode()
    return [pid for pid in family(os.getpid())[1:] if name in Path(f"/proc/{pid}/cmdline").read_bytes()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=200)
    looks = parser.parse_args().looks
    with tempfile.TemporaryDirectory(prefix="sampling-") as folder, accounted():
        figures = asyncio.run(measure(Path(folder), looks))
    base, place = next(iter(gpu_inside.trees().values()))
    with gpu_inside.containers(place):
        inside = asyncio.run(gpu_inside.measure(base, max(10, looks // 10)))
    each_5_s = (figures["look"]["cpu_ms"] + figures["use"]["cpu_ms"]) / EVERY_S / 10
    figures |= {"inside_percent": round(inside["cpu_percent"], 3), "each_5_s_percent": round(each_5_s, 3)}
    figures["cpu_percent"] = round(each_5_s + inside["cpu_percent"], 3)
    show(figures)
    print(json.dumps({"benchmark": "sampling", "bar": CPU_LIMIT_PERCENT, "looks": looks, **figures}))
    return 0 if figures["cpu_percent"] <= CPU_LIMIT_PERCENT else 1


def show(figures: dict[str, Any]) -> None:
    print(f"{'figure':<58}{'measured':>10}{'bar':>8}")
    for name, part in (("a look at 8 GPUs", "look"), ("use of 50 containers", "use"), ("a reading of 8 GPUs", "read")):
        print(f"{name + ': CPU, ms':<58}{figures[part]['cpu_ms']:>10.2f}")
        print(f"{name + ': time, ms':<58}{figures[part]['wall_ms']:>10.2f}")
    print(f"{'look and use each 5 s, % of one core':<58}{figures['each_5_s_percent']:>10.3f}")
    print(f"{'the right to GPUs of 50 containers each 45 s, %':<58}{figures['inside_percent']:>10.3f}")
    print(f"{'all, % of one core':<58}{figures['cpu_percent']:>10.3f}{CPU_LIMIT_PERCENT:>8}")
    print(f"{'PSS of the process that looks, MB':<58}{figures['looker_mb']:>10.1f}")


if __name__ == "__main__":
    sys.exit(main())
