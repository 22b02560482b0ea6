"""What one look at the host costs, beside its GPUs: CPU of the daemon and of its child, on this machine.

Prints a table and one JSON line last. Run by `scripts/bench health [--looks N]`.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from kaalia.clock import SystemClock
from kaalia.health.host import HealthService
from kaalia.health.host_reading import HostReader, Places
from kaalia.health.host_rules import rules
from kaalia.store import machine
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.builders import build_report

CPU_LIMIT_PERCENT = 0.05
"""Of one core, at one look a minute: a tenth of what the whole idle daemon may use."""
WALL_LIMIT_MS = 50
"""No call in the loop may last longer (I10); a look waits for a thread and a child, and should not be longer either."""


async def measure(looks: int) -> dict[str, float]:
    clock, changes = SystemClock(), Changes()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "state.db", changes)
        await database.open()
        reader = HostReader(Places(Path(folder)), clock, rules().limits, lambda: 0.02)
        service = HealthService(database, changes, clock, reader, folder)
        report = build_report(clock.now(), gpus=8)
        assert report.engine is not None
        here = replace(report, engine=replace(report.engine, data_root=folder))
        await database.transaction(lambda tx: machine.put_report(tx, here))
        await service.look()  # the first one reads the list of packages, and the catalogue
        walls, before = [], _cpu_s()
        for _ in range(looks):
            begun_s = time.monotonic()
            await service.look()
            walls.append((time.monotonic() - begun_s) * 1000)
        own_s, child_s = (now - then for now, then in zip(_cpu_s(), before, strict=True))
        await database.close()
    return {
        "own_cpu_ms": own_s / looks * 1000,
        "child_cpu_ms": child_s / looks * 1000,
        "cpu_percent": (own_s + child_s) / looks / 60 * 100,
        "wall_median_ms": statistics.median(walls),
    }


def _cpu_s() -> tuple[float, float]:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=200)
    figures = asyncio.run(measure(parser.parse_args().looks))
    print(f"{'figure':<42}{'measured':>10}{'bar':>8}")
    print(f"{'CPU of the daemon, ms a look':<42}{figures['own_cpu_ms']:>10.2f}{'':>8}")
    print(f"{'CPU of its child (df), ms a look':<42}{figures['child_cpu_ms']:>10.2f}{'':>8}")
    print(f"{'both, % of one core, one look a minute':<42}{figures['cpu_percent']:>10.4f}{CPU_LIMIT_PERCENT:>8}")
    print(f"{'time of a look, median, ms':<42}{figures['wall_median_ms']:>10.1f}{WALL_LIMIT_MS:>8}")
    print(json.dumps({"benchmark": "health", **figures}))
    return 0 if figures["cpu_percent"] <= CPU_LIMIT_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
