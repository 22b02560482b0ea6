"""What the idle daemon costs: memory (PSS, children included) and CPU, with 8 simulated GPUs and 10 containers.

With `--containers 50` the bar of its memory is that of a full machine. Prints a table and one JSON line last. Run by
`scripts/bench idle [--minutes N] [--containers N]`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from kaalia.units import GIB
from tests.support.docker_engine import DISK_BYTES
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

PSS_LIMIT_MB = 60
FULL, FULL_PSS_LIMIT_MB = 50, 70
"""So many containers, and what all may take then."""
CPU_LIMIT_PERCENT = 0.5
CONTAINERS = 10
GPUS = 8
"""The containers beyond the GPUs are stopped ones: GPUs are exclusive while running."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--containers", type=int, default=CONTAINERS)
    options = parser.parse_args()
    minutes, containers = options.minutes, options.containers
    limit_mb = FULL_PSS_LIMIT_MB if containers >= FULL else PSS_LIMIT_MB
    room_bytes = max(DISK_BYTES, 2 * containers * GIB)
    with scene(gpus="8xRTX_4090", disk_bytes=room_bytes) as (stack, image):
        stack.list_machine()
        for number in range(containers):
            instance_id = stack.rent(
                wait_until("an offer", lambda: stack.rentable_offer(1), 30),
                image=image,
                disk=1,
                runtype="args",
                args=["sleep", "99999"],
                label=str(number),
            )
            stack.wait_status(instance_id, "running")
            if number < containers - GPUS:
                stack.renter_api.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})
                stack.wait_status(instance_id, "stopped")
        time.sleep(15)
        assert stack.daemon is not None
        # Once a day the ports are probed: it is told by itself, and not again within the minutes that follow.
        probe_cpu_s = cost_of_probe(stack, stack.daemon.pid)
        figures = {**measure(stack.daemon.pid, minutes), "probe_cpu_s": probe_cpu_s}
    print(f"{'figure':<34}{'measured':>10}{'bar':>8}")
    print(f"{'PSS, median, MB':<34}{figures['pss_median_mb']:>10.1f}{limit_mb:>8}")
    print(f"{'of that the daemon itself, MB':<34}{figures['daemon_mb']:>10.1f}{'':>8}")
    print(f"{'of that who looks at GPUs, MB':<34}{figures['children_mb']:>10.1f}{'':>8}")
    print(f"{'PSS, peak with probe child, MB':<34}{figures['pss_peak_mb']:>10.1f}{limit_mb:>8}")
    print(f"{'CPU, % of one core':<34}{figures['cpu_percent']:>10.3f}{CPU_LIMIT_PERCENT:>8}")
    print(f"{'CPU, s per minute':<34}{figures['cpu_s_per_minute']:>10.3f}{'':>8}")
    print(f"{'CPU of a probe of all ports, s':<34}{figures['probe_cpu_s']:>10.3f}{'':>8}")
    print(json.dumps({"benchmark": "idle", "containers": containers, **figures}))
    return 0


def cost_of_probe(stack: Stack, pid: int) -> float:
    """CPU time of the daemon for one probe of the whole range, TCP and UDP."""
    before = cpu_s(pid)
    done = stack.kaalia("ports", "--probe", "--json", "--socket", str(stack.socket))
    if done.returncode != 0:
        raise RuntimeError(f"cannot probe the ports: {done.stderr}")
    return round(cpu_s(pid) - before, 3)


def measure(pid: int, minutes: float) -> dict[str, float]:
    """Sample PSS twice a second and take CPU time at both ends; times of ended children count."""
    samples: list[float] = []
    own: list[float] = []
    cpu_before, started = family_cpu_s(pid), time.monotonic()
    while time.monotonic() - started < minutes * 60:
        sizes = [pss_mb(member) for member in family(pid)]
        samples.append(sum(sizes))
        own.append(sizes[0])
        time.sleep(0.5)
    elapsed = time.monotonic() - started
    cpu = family_cpu_s(pid) - cpu_before
    return {
        "minutes": round(elapsed / 60, 2),
        "pss_median_mb": round(statistics.median(samples), 1),
        "daemon_mb": round(statistics.median(own), 1),
        "children_mb": round(statistics.median(samples) - statistics.median(own), 1),
        "pss_peak_mb": round(max(samples), 1),
        "cpu_percent": round(100 * cpu / elapsed, 3),
        "cpu_s_per_minute": round(60 * cpu / elapsed, 3),
    }


def family_cpu_s(pid: int) -> float:
    """Of the process, of its children that stay, and of all of theirs that have ended."""
    return sum(cpu_s(member) for member in family(pid))


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [pid]
    try:
        for child in children.read_text().split():
            found += family(int(child))
    except OSError:
        pass
    return found


def pss_mb(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0")
    return int(line.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """User and system time of the process and of its children that have ended; 0 of one that is gone by now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
