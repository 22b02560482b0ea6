"""What the full report costs, against the programs that people ask for the same: turn by turn in one run.

1. a full passive report (inventory and all, 8 simulated GPUs) with its document, nothing kept from before,
   beside lscpu, lsblk -J, dmidecode and one second of psutil, each run as a process;
2. the CPU time of one reading of 8 GPUs, the probe child and its counters included, as a share of one core.

dmidecode counts only where it is installed and may read the table; the report reads the same table itself. Prints a
table and one JSON line last. Run by `scripts/bench report [--rounds N]`.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kaalia.capability import inventory
from kaalia.capability.report import Inputs, survey
from kaalia.clock import SystemClock
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import PortRange
from kaalia.runtime.container.engine import DockerEngine
from kaalia.wire import document as wire
from kaalia.wire import report as full
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import machine, write

RATIO_BAR = 0.1
GPUS = "8xH100"
SAMPLE = (
    "import psutil; psutil.cpu_percent(1.0, percpu=True); psutil.virtual_memory(); psutil.net_io_counters(); "
    "psutil.disk_io_counters()"
)
RIVALS = (("lscpu",), ("lsblk", "-J"), ("dmidecode",), (sys.executable, "-c", SAMPLE))
EVERY_S = 60.0
"""`intervals.report_s`."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        figures = asyncio.run(measure(Path(folder), rounds))
    rows = (
        ("programs as processes, ms", figures["programs_ms"], ""),
        ("full passive report, ms", figures["report_ms"], ""),
        ("report / programs", figures["ratio"], RATIO_BAR),
        ("reading of each minute, ms", figures["reading_ms"], ""),
        ("CPU of one reading of 8 GPUs, ms", figures["reading_cpu_ms"], ""),
        ("at one a minute, % of a core", figures["cpu_percent"], ""),
        ("full document, KiB", figures["document_kib"], ""),
        ("what the marketplace gets, KiB", figures["wire_kib"], ""),
    )
    print(f"{'figure':<36}{'measured':>10}{'bar':>8}")
    for name, value, bar in rows:
        print(f"{name:<36}{value:>10.3f}{bar:>8}")
    print(f"programs run: {', '.join(figures['ran'])}")
    print(json.dumps({"benchmark": "report", "bar": RATIO_BAR, "rounds": rounds, **figures}))
    return 0


async def measure(folder: Path, rounds: int) -> dict[str, Any]:
    probe = NvmlProbe(env=os.environ | environment(build(folder), folder / "profile"))
    write(folder / "profile", machine(GPUS))
    with PrivateDocker(folder / "docker") as docker:
        engine = DockerEngine(docker.socket)
        inputs = Inputs(probe, engine.facts, PortRange(40000, 40799), public_ip="203.0.113.7")
        ran = [argv[0] for argv in RIVALS if shutil.which(argv[0])]
        document, sent = await report(inputs)
        programs, reports, readings, cpu = [], [], [], []
        for _ in range(rounds):
            programs.append(await asyncio.to_thread(timed_programs))
            began = time.perf_counter()
            await report(inputs)
            reports.append(time.perf_counter() - began)
            before, began = children_cpu_s(), time.perf_counter()
            await probe.read()
            readings.append(time.perf_counter() - began)
            cpu.append(children_cpu_s() - before)
        engine.close()
    ours, theirs = statistics.median(reports), statistics.median(programs)
    return {
        "ran": [Path(name).name for name in ran],
        "programs_ms": round(theirs * 1000, 1),
        "report_ms": round(ours * 1000, 1),
        "ratio": round(ours / theirs, 4),
        "reading_ms": round(statistics.median(readings) * 1000, 1),
        "reading_cpu_ms": round(statistics.median(cpu) * 1000, 1),
        "cpu_percent": round(100 * statistics.median(cpu) / EVERY_S, 4),
        "document_kib": round(len(document) / 1024, 1),
        "wire_kib": round(len(sent) / 1024, 1),
    }


async def report(inputs: Inputs) -> tuple[str, str]:
    """The full report from nothing, as its document, and what of it leaves the machine."""
    now = SystemClock().now()
    found = await survey(inputs, now, with_parts=True)
    assert found.parts is not None
    listed = await inventory.collect(found.report, found.parts, inputs.root, now)
    whole = inventory.with_parts(found.report, listed.gpus)
    return json.dumps(full.encode(whole, listed)), wire.encode(whole)


def timed_programs() -> float:
    began = time.perf_counter()
    for argv in RIVALS:
        if shutil.which(argv[0]):
            subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
