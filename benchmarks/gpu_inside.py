"""What one look at the GPUs inside of running containers costs: 50 contracts of 8 GPUs, by both versions of cgroups.

Needs root and cgroups of its own: `scripts/bench gpu_inside [--looks N]`. Prints a table and one JSON line last.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kaalia.clock import SystemClock
from kaalia.health.gpu_inside import LOOK_S, GpuInsideService
from kaalia.host import gpu_access
from kaalia.store import conditions, workloads
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.builders import build_status
from tests.support.images import BUSYBOX

CONTAINERS, GPUS = 50, 8
CPU_LIMIT_PERCENT = 0.1
"""Of one core: a fifth of what the whole idle daemon may use."""
CGROUPS = Path("/sys/fs/cgroup")
IDS = [f"{number:064x}" for number in range(CONTAINERS)]


def trees() -> dict[str, tuple[Path, Path]]:
    """By version: where a look begins, and where containers are."""
    second = next((one for one in (CGROUPS, CGROUPS / "unified") if (one / "cgroup.controllers").exists()), None)
    found = {"2": (second, second / "docker")} if second is not None else {}
    return found | ({"1": (CGROUPS, CGROUPS / "devices" / "docker")} if (CGROUPS / "devices").exists() else {})


@contextmanager
def containers(folder: Path) -> Iterator[None]:
    """Processes with cgroups and device nodes, as containers have them."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "dev").mkdir()
        for minor in range(GPUS):
            os.mknod(root / "dev" / f"nvidia{minor}", stat.S_IFCHR | 0o666, os.makedev(195, minor))
        shutil.copy(BUSYBOX, root / "busybox")
        processes = [subprocess.Popen(["chroot", root, "/busybox", "sleep", "9999"]) for _ in IDS]
        for container_id, process in zip(IDS, processes, strict=True):
            (folder / container_id).mkdir(parents=True)
            (folder / container_id / "cgroup.procs").write_text(str(process.pid))
        try:
            yield
        finally:
            for process in processes:
                process.kill()
                process.wait()
            for container_id in IDS:
                (folder / container_id).rmdir()


async def measure(base: Path, looks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        changes = Changes()
        database = Database(Path(folder) / "state.db", changes)
        await database.open()
        uuids = tuple(f"GPU-{number}" for number in range(GPUS))
        for number, container_id in enumerate(IDS, 1):
            row = build_status(number, gpu_uuids=uuids, container_id=container_id)
            await database.transaction(partial(workloads.put, status=row))
        service = GpuInsideService(database, changes, SystemClock(), look=partial(gpu_access.look, base=base))
        await service.look()
        before = _cpu_s()
        for _ in range(looks):
            await service.look()
        own_s, child_s = (now - then for now, then in zip(_cpu_s(), before, strict=True))
        wrong = await database.read(conditions.all_open)
        await database.close()
    if wrong:
        raise RuntimeError(f"what was looked at is not well: {wrong[0]}")
    return {
        "own_cpu_ms": own_s / looks * 1000,
        "child_cpu_ms": child_s / looks * 1000,
        "cpu_percent": (own_s + child_s) / looks / LOOK_S * 100,
    }


def _cpu_s() -> Sequence[float]:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=40)
    looks, figures = parser.parse_args().looks, {}
    print(f"{'cgroups':<10}{'daemon, ms':>12}{'child, ms':>12}{'% of a core':>14}{'bar':>8}")
    for version, (base, folder) in trees().items():
        with containers(folder):
            one = figures[version] = asyncio.run(measure(base, looks))
        cells = f"{one['own_cpu_ms']:>12.1f}{one['child_cpu_ms']:>12.1f}{one['cpu_percent']:>14.3f}"
        print(f"version {version:<2}{cells}{CPU_LIMIT_PERCENT:>8}")
    print(json.dumps({"benchmark": "gpu_inside", **figures}))
    return 0 if figures and all(one["cpu_percent"] <= CPU_LIMIT_PERCENT for one in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
