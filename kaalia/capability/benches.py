"""Measures what the owner orders: CPU, Docker's disk, the links of the GPUs. Each in a child process, one at a time.

Nothing is measured by itself. What cannot be measured is stored too, with its reason. Beside tenants everything is
smaller and stands behind them (`gentle`), and a GPU that is in use is left alone.
"""

import asyncio
import json
import logging
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from kaalia.capability import fio, links
from kaalia.clock import Clock
from kaalia.errors import HostError
from kaalia.host.nvml import NvmlProbe
from kaalia.host.process import run
from kaalia.model.measurement import Bench, Measurement
from kaalia.service import guarded, run_forever
from kaalia.store import claims, gpu_use, machine, measurements, speed
from kaalia.store.changes import Changes, Topic, wait
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Database, Transaction
from kaalia.store.measurements import Order

CPU_BENCH = Path(__file__).with_name("cpu_bench.py")
CPU_SECONDS, CPU_GENTLE_SECONDS = 2.0, 0.5
CPU_TIMEOUT_S = 60.0
SHA256_MBPS, ZLIB_MBPS = 500.0, 50.0
"""By definition 1000 points: the geometric mean of both rates in these units. A core of 2020 has about as much."""

log = logging.getLogger(__name__)


class _WithdrawnError(Exception):
    """Nobody wants it any longer."""


class BenchService:
    """Sleeps until something is ordered."""

    name = "bench"

    def __init__(self, database: Database, changes: Changes, clock: Clock, probe: NvmlProbe) -> None:
        """`probe`: one of its own, since a probe reads one at a time."""
        self._database = database
        self._clock = clock
        self._probe = probe
        self._bell = changes.subscribe(Topic.MEASUREMENTS)
        self._is_clear = False

    async def run(self) -> None:
        await run_forever(self.name, self._turn)

    async def _turn(self) -> None:
        if not self._is_clear:
            await self._clear()
            self._is_clear = True
        order = await self._database.read(measurements.next_order)
        if order is None:
            await wait(self._bell, None)
        else:
            await self.measure(order)

    async def _clear(self) -> None:
        """What a daemon that was killed left: the test that wanted it measured ended with it, the owner waits on."""
        await self._database.transaction(measurements.withdraw)
        report = await self._database.read(machine.get_report)
        if report is not None and report.disk is not None:
            await fio.clear(report.disk)

    async def measure(self, order: Order) -> tuple[Measurement, ...]:
        """Do it and store what came of it; whatever happens, the order is done with. One that is withdrawn ends."""
        now = self._clock.now()
        gentle = await self._database.read(lambda tx: speed.tenants(tx, now).running > 0)
        found: tuple[Measurement, ...] = ()
        try:
            work = self._measured(order.bench, now, gentle=gentle)
            found = await guarded(work, self._until_withdrawn(order.bench))
        except _WithdrawnError:
            log.info("measuring %s was broken off", order.bench)
        finally:

            def store(tx: Transaction) -> None:
                measurements.put(tx, found)
                measurements.done(tx, order.bench)

            await self._database.transaction(store, Topic.MEASUREMENTS)
        if found:
            log.info("measured %s: %s", order.bench, ", ".join(f"{one.name} {one.value}" for one in found))
        return found

    async def _until_withdrawn(self, bench: Bench) -> None:
        while bench in await self._database.read(measurements.ordered):
            await wait(self._bell, None)
        raise _WithdrawnError

    async def _measured(self, bench: Bench, now: datetime, *, gentle: bool) -> tuple[Measurement, ...]:
        if bench is Bench.CPU:
            return await cpu(now, gentle=gentle)
        report, busy = await self._database.read(lambda tx: (machine.get_report(tx), _busy(tx)))
        if bench is Bench.DISK:
            return await fio.disk(report.disk if report else None, now, gentle=gentle)
        return await links.pcie(report.gpus if report else (), busy, self._probe, now, dict(os.environ))


def _busy(tx: Transaction) -> frozenset[str]:
    """GPUs that a contract has, or that a process uses."""
    use = gpu_use.get(tx)
    claimed = {one.key for one in claims.all_claims(tx) if one.kind is ClaimKind.GPU}
    return frozenset(claimed | ({one.gpu_uuid for one in use.processes} if use else set()))


async def cpu(now: datetime, *, gentle: bool) -> tuple[Measurement, ...]:
    """Score of one core and of all, and the frequency that they hold."""
    seconds = CPU_GENTLE_SECONDS if gentle else CPU_SECONDS
    begin_s = asyncio.get_running_loop().time()
    try:
        result = await run((sys.executable, "-I", str(CPU_BENCH), str(seconds)), CPU_TIMEOUT_S, check=True)
        answer = json.loads(result.stdout)
        parts = {"cpu_single_points": answer["single"], "cpu_points": answer["all"]}
        scores = {name: list(_scores(part)) for name, part in parts.items()}
    except (HostError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
        return tuple(
            Measurement(name, "", None, unit, "", now, 0.0, reason=reason, gentle=gentle)
            for name, unit in (("cpu_points", "points"), ("cpu_single_points", "points"), ("cpu_sustained_ghz", "GHz"))
        )
    length_s = (asyncio.get_running_loop().time() - begin_s) / 2
    points = tuple(
        Measurement(
            *(name, "", round(statistics.fmean(found), 1), "points", "", now, length_s, _spread(found)), gentle=gentle
        )
        for name, found in scores.items()
    )
    return (*points, _frequency(answer["ghz"], now, length_s, gentle=gentle))


def _scores(part: dict[str, list[float]]) -> Iterator[float]:
    """Of each round."""
    for hashed, packed in zip(part["sha256_mbps"], part["zlib_mbps"], strict=True):
        yield 1000 * statistics.geometric_mean((hashed / SHA256_MBPS, packed / ZLIB_MBPS))


def _frequency(ghz: Sequence[Any], now: datetime, length_s: float, *, gentle: bool) -> Measurement:
    if not ghz:
        reason = "the kernel does not tell the frequency of this CPU"
        return Measurement("cpu_sustained_ghz", "", None, "GHz", "", now, length_s, reason=reason, gentle=gentle)
    value = round(statistics.median(ghz), 3)
    return Measurement("cpu_sustained_ghz", "", value, "GHz", "", now, length_s, _spread(ghz), gentle=gentle)


def _spread(values: Sequence[float]) -> float | None:
    mean = statistics.fmean(values)
    return statistics.stdev(values) / mean if len(values) > 1 and mean else None
