"""Bandwidth and latency of the disk that tenants share, by fio in one file below Docker's data root.

At most 1 GiB is written once. Beside tenants it is an eighth of it, for a second each, in the idle class of the disk's
scheduler. The daemon's sandbox may not write there, so fio runs outside of it. The page cache is passed by (direct);
a file system that cannot do that is not measured.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from kaalia.errors import HostError
from kaalia.host import outside
from kaalia.host.process import run
from kaalia.model.machine import Disk
from kaalia.model.measurement import Measurement
from kaalia.units import GIB, MIB

log = logging.getLogger(__name__)

FILE = ".kaalia-bench"
TIMEOUT_S = 120.0
SIZE_BYTES, GENTLE_BYTES = GIB, 128 * MIB
SECONDS, GENTLE_SECONDS = 2, 1
"""Of each job: twenty samples, whose spread is told."""
REMOVE_S = 30.0
GONE_S = 5.0
"""What is killed goes in a moment, unless the disk does not answer."""
_LIMITS = ("TasksMax=64", "MemoryMax=512M", "NoNewPrivileges=yes", "PrivateNetwork=yes", "RuntimeMaxSec=150")
FREE_SHARE = 10
"""The file is at most this part of the free space."""

_JOBS: Mapping[str, tuple[str, ...]] = {
    "write": ("--rw=write", "--bs=1M", "--iodepth=8"),
    "read": ("--rw=read", "--bs=1M", "--iodepth=8"),
    "random_read": ("--rw=randread", "--bs=4k", "--iodepth=32"),
    "random_write": ("--rw=randwrite", "--bs=4k", "--iodepth=32"),
    "latency": ("--rw=randread", "--bs=4k", "--iodepth=1"),
}
"""One after the other; the first makes the file."""
_UNITS = {
    "disk_read_mbps": "MB/s",
    "disk_write_mbps": "MB/s",
    "disk_random_read_iops": "1/s",
    "disk_random_write_iops": "1/s",
    "disk_read_latency_us": "µs",
    "disk_read_latency_p99_us": "µs",
}


async def disk(where: Disk | None, now: datetime, *, gentle: bool) -> tuple[Measurement, ...]:
    """Nothing raises: what keeps it from measuring is the reason of each figure."""
    size = GENTLE_BYTES if gentle else SIZE_BYTES
    if where is None:
        return _untold("Docker's data root is not known", now, gentle=gentle)
    if where.free_bytes < size * FREE_SHARE:
        return _untold(f"less than {size * FREE_SHARE // GIB} GiB are free on {where.path}", now, gentle=gentle)
    if await asyncio.to_thread(shutil.which, "fio", path=outside.ENVIRONMENT["PATH"]) is None:
        return _untold("fio is not installed: apt install fio", now, gentle=gentle)
    path, first = Path(where.path) / FILE, await outside.prefix(*_LIMITS)
    try:
        command = (*first, *argv(path, size, gentle=gentle))
        result = await run(command, TIMEOUT_S, max_output_bytes=4 * MIB, env=outside.ENVIRONMENT)
    except HostError as error:
        return _untold(error.problem.message, now, gentle=gentle)
    finally:
        await _clear(path, first)
    if result.exit_code != 0:
        return _untold(f"fio failed: {(result.stderr or result.stdout).strip()[:200]}", now, gentle=gentle)
    try:
        return understood(result.stdout, now, gentle=gentle)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return _untold(f"fio answered what is not understood: {error!r}", now, gentle=gentle)


async def clear(where: Disk) -> None:
    """What a daemon that was killed left there: fio goes on without it, and its file stays. Nothing raises."""
    path = Path(where.path) / FILE
    if await asyncio.to_thread(os.path.lexists, path):
        log.info("an earlier measurement of the disk is cleared away: %s", path)
        await _clear(path, await outside.prefix(*_LIMITS))


async def _clear(path: Path, first: tuple[str, ...]) -> None:
    # Neither systemd's nor an orphan ends with whoever started it, and each of its jobs would make the file anew.
    await asyncio.to_thread(_end, path)
    with suppress(HostError):
        await run((*first, "rm", "--force", "--", str(path)), REMOVE_S, env=outside.ENVIRONMENT)


def _end(path: Path) -> None:
    until = time.monotonic() + GONE_S
    while (found := writers(path.parent)) and time.monotonic() < until:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def writers(folder: Path) -> list[int]:
    """Each fio that measures there; a dead one that nobody has awaited yet has no arguments. Blocks for some ms."""
    found, wanted = [], f"--filename={folder / FILE}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if wanted in words and (process / "comm").read_bytes() == b"fio\n":
                found.append(int(process.name))
    return found


def argv(path: Path, size_bytes: int, *, gentle: bool) -> tuple[str, ...]:
    all_jobs = (
        *("fio", "--output-format=json", "--direct=1", "--ioengine=libaio", f"--filename={path}"),
        *(f"--size={size_bytes}", f"--runtime={GENTLE_SECONDS if gentle else SECONDS}", "--bwavgtime=100"),
        *("--iopsavgtime=100", "--randseed=1", *(("--prioclass=3", "--nice=19") if gentle else ())),
    )
    jobs = [word for name, options in _JOBS.items() for word in (f"--name={name}", "--stonewall", *options)]
    return (*all_jobs, *jobs)


def understood(answer: str, now: datetime, *, gentle: bool) -> tuple[Measurement, ...]:
    """fio's JSON, which may stand behind warnings. Raises ValueError, KeyError, TypeError."""
    jobs = {job["jobname"]: job for job in json.loads(answer[answer.index("{") :])["jobs"]}
    write, read = jobs["write"]["write"], jobs["read"]["read"]
    latency = jobs["latency"]["read"]
    lat = latency["clat_ns"]
    figures = {
        "disk_read_mbps": (read["bw_bytes"] / 1e6, read, _share(read, "bw_samples", "bw_dev", "bw_mean")),
        "disk_write_mbps": (write["bw_bytes"] / 1e6, write, _share(write, "bw_samples", "bw_dev", "bw_mean")),
        "disk_random_read_iops": _iops(jobs["random_read"]["read"]),
        "disk_random_write_iops": _iops(jobs["random_write"]["write"]),
        "disk_read_latency_us": (lat["mean"] / 1e3, latency, _share(lat, "N", "stddev", "mean")),
        "disk_read_latency_p99_us": (lat["percentile"]["99.000000"] / 1e3, latency, None),
    }
    return tuple(
        Measurement(
            *(name, "", round(value, 1), _UNITS[name], "", now, float(part["runtime"]) / 1e3, spread), gentle=gentle
        )
        for name, (value, part, spread) in figures.items()
    )


def _iops(part: dict[str, Any]) -> tuple[float, dict[str, Any], float | None]:
    return float(part["iops"]), part, _share(part, "iops_samples", "iops_stddev", "iops_mean")


def _share(part: dict[str, Any], samples: str, deviation: str, mean: str) -> float | None:
    """None: too few samples to tell."""
    return float(part[deviation]) / float(part[mean]) if part.get(samples, 0) > 1 and part.get(mean) else None


def _untold(reason: str, now: datetime, *, gentle: bool) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(name, "", None, unit, "", now, 0.0, reason=reason, gentle=gentle) for name, unit in _UNITS.items()
    )
