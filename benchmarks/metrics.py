"""One scrape of /metrics with 8 GPUs and 50 contracts, against a text of the same size from the same server.

Also what the first scrape costs: time and memory (PSS), since it imports the library; and how late the event loop wakes
while it is scraped without a pause. The server has a process of its own with all modules of the daemon.
Prints a table and one JSON line last. Run by `scripts/bench metrics [--rounds N]`.
"""

import argparse
import asyncio
import gc
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from aiohttp import web

from benchmarks.idle import cpu_s, pss_mb
from kaalia.api import app as api
from kaalia.api.context import Context
from kaalia.daemon import build  # noqa: F401 for the memory: all that a daemon imports is here
from kaalia.host import cgroup
from kaalia.pulse import PULSE
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.clock import START, FakeClock
from tests.support.crowd import FIRST, container_id, crowd
from tests.support.sysfs import write_files
from tests.support.waiting import wait_until

GPUS, CONTRACTS = 8, 50
SCRAPE_LIMIT_MS, LAG_LIMIT_MS = 10.0, 50.0
SETTLE_S = 1.0
LOOK_S = 0.001


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.metrics", "--serve", folder])
        try:
            figures = measure(server.pid, Path(folder), options.rounds)
        finally:
            server.kill()
            server.wait()
    show(figures)
    return 0


def measure(pid: int, folder: Path, rounds: int) -> dict[str, float]:
    path = folder / "s"
    wait_until("the server", path.exists, 60)
    get(path, "/v1/status")
    time.sleep(SETTLE_S)
    before_mb = pss_mb(pid)
    first_ms, text = timed(path, "/metrics")
    time.sleep(SETTLE_S)
    after_mb = pss_mb(pid)
    get(path, f"/static?bytes={len(text)}")
    scrapes, floors = [], []
    cpu_before_s = cpu_s(pid)
    for _ in range(rounds):
        get(path, "/metrics")
    cpu_ms = 1000 * (cpu_s(pid) - cpu_before_s) / rounds
    for _ in range(rounds):
        floors.append(timed(path, "/static")[0])
        scrapes.append(timed(path, "/metrics")[0])
    late_idle_s, late_s = lateness(path, "/static", rounds), lateness(path, "/metrics", rounds)
    return {
        "samples": sum(not line.startswith(b"#") for line in text.splitlines()),
        "bytes": len(text),
        "scrape_ms": round(statistics.median(scrapes), 2),
        "scrape_p99_ms": round(statistics.quantiles(scrapes, n=100)[98], 2),
        "scrape_cpu_ms": round(cpu_ms, 2),
        "floor_ms": round(statistics.median(floors), 2),
        "ratio": round(statistics.median(scrapes) / statistics.median(floors), 2),
        "loop_lag_ms": round(late_s * 1000, 2),
        "loop_lag_floor_ms": round(late_idle_s * 1000, 2),
        "first_scrape_ms": round(first_ms, 1),
        "pss_before_mb": round(before_mb, 2),
        "pss_after_mb": round(after_mb, 2),
        "pss_end_mb": round(pss_mb(pid), 2),
    }


def lateness(path: Path, url: str, rounds: int) -> float:
    """The latest that the event loop woke while this was asked for without a pause; seconds."""
    get(path, "/lag?watch=1")
    for _ in range(rounds):
        get(path, url)
    return float(get(path, "/lag?watch=0"))


def timed(path: Path, url: str) -> tuple[float, bytes]:
    """Milliseconds, and the answer."""
    began = time.perf_counter()
    body = get(path, url)
    return 1000 * (time.perf_counter() - began), body


def get(path: Path, url: str) -> bytes:
    connection = http.client.HTTPConnection("kaalia", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", url)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    assert reply.status == 200, body
    return body


async def serve(folder: Path) -> None:
    """The local API over a crowded store, a text of any size beside it, and somebody who looks at the loop."""
    gc.collect()
    gc.freeze()  # as the daemon does at its start
    database = Database(folder / "state.db", Changes())
    await database.open()
    await database.transaction(partial(crowd, at=START, gpus=GPUS, count=CONTRACTS, all_run=True))
    for loop in ("reconciler", "report", "heartbeat", "audit", "traffic", "disk-watch", "walls"):
        with PULSE.turn(loop):
            pass
    clock = FakeClock()
    app = api.build(Context(database, clock, clock.now(), usages=partial(cgroup.usages, root=containers(folder))))
    text, late_s, watches = "", 0.0, False

    async def static(request: web.Request) -> web.Response:
        nonlocal text
        text = "x" * int(request.query.get("bytes", len(text)))
        return web.Response(text=text)

    async def lag(request: web.Request) -> web.Response:
        nonlocal late_s, watches
        found, late_s, watches = late_s, 0.0, request.query["watch"] == "1"
        return web.Response(text=str(found))

    app.add_routes([web.get("/static", static), web.get("/lag", lag)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "s")).start()
    while True:
        began, pause_s = time.perf_counter(), LOOK_S if watches else 0.01
        await asyncio.sleep(pause_s)
        if watches:
            late_s = max(late_s, time.perf_counter() - began - pause_s)


def containers(folder: Path) -> Path:
    """The kernel's files of as many containers, as plain files."""
    files = {"sys/fs/cgroup/cgroup.controllers": "cpu memory"}
    for number in range(FIRST, FIRST + CONTRACTS):
        place = f"sys/fs/cgroup/system.slice/docker-{container_id(number)}.scope"
        files[f"{place}/cpu.stat"] = (
            f"usage_usec {number}000000\nuser_usec 1\nsystem_usec 1\nnr_periods 0\nnr_throttled 0"
        )
        files[f"{place}/memory.current"] = str(number << 20)
        files[f"{place}/memory.events"] = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0"
    return write_files(folder / "root", files)


def show(figures: dict[str, float]) -> None:
    print(f"{'figure':<48}{'measured':>10}{'bar':>8}")
    rows = (
        (f"scrape of {figures['samples']:.0f} samples, median, ms", "scrape_ms", SCRAPE_LIMIT_MS),
        ("the same, 99th percentile, ms", "scrape_p99_ms", ""),
        ("CPU of the daemon for it, mean, ms", "scrape_cpu_ms", ""),
        ("static text of the same size, median, ms", "floor_ms", ""),
        ("ratio", "ratio", ""),
        ("event loop late by, the most, ms", "loop_lag_ms", LAG_LIMIT_MS),
        ("the same while the static text is asked for, ms", "loop_lag_floor_ms", ""),
        ("first scrape, ms", "first_scrape_ms", ""),
        ("PSS before the first scrape, MB", "pss_before_mb", ""),
        ("PSS after it, MB", "pss_after_mb", ""),
        ("PSS after all, MB", "pss_end_mb", ""),
    )
    for words, name, bar in rows:
        print(f"{words:<48}{figures[name]:>10}{bar:>8}")
    print(json.dumps({"benchmark": "metrics", **figures}))


if __name__ == "__main__":
    sys.exit(main())
