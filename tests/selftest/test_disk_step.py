"""The step `disk` on the machine's own road: its work program, and the measurement that the owner can order too."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.model.machine import Disk
from kaalia.model.measurement import Bench as Ordered
from kaalia.model.measurement import Measurement
from kaalia.model.selftest import Outcome, RunResult, StepName, StepResult
from kaalia.selftest.programs import WORK
from kaalia.selftest.registry import STEPS
from kaalia.store import measurements, selftest
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.store.measurements import Order
from tests.selftest.bench import Bench
from tests.selftest.trials import Trial


@pytest.fixture
async def trial(bench: Bench, tmp_path: Path) -> Trial:
    bench.every = None
    await bench.put_report(replace(bench.report, disk=Disk(str(tmp_path), 1 << 40, 1 << 39)))
    return Trial(bench, WORK, {StepName.DISK: STEPS[StepName.DISK]})


async def measured(trial: Trial, value: float | None, reason: str = "") -> None:
    """As the bench's service does it, once it is ordered."""
    bench = trial.bench
    for _ in range(12000):
        if await bench.rig.store.read(measurements.next_order) is not None:
            break
        await asyncio.sleep(0.005)
    now = bench.clock.now()
    found = [Measurement("disk_read_mbps", "", value, "MB/s", "", now, 4.0, 0.02, reason)]
    found.append(Measurement("cpu_points", "", 900.0, "points", "", now, 4.0))

    def store(tx: Transaction) -> None:
        measurements.put(tx, found)
        measurements.done(tx, Ordered.DISK)

    await bench.rig.store.transaction(store, Topic.MEASUREMENTS)


async def run(trial: Trial, *, is_quick: bool) -> StepResult:
    await trial.start()
    await trial.order(is_quick=is_quick, only=(StepName.DISK,))
    ended = await trial.ended()
    assert len(ended.steps) == 1, ended
    return ended.steps[0]


async def test_a_quick_test_reads_back_what_it_wrote_and_measures_by_itself(trial: Trial, tmp_path: Path) -> None:
    found = await run(trial, is_quick=True)

    assert found.outcome is Outcome.PASSED, found
    assert f"on {tmp_path} came back as they were written" in found.words
    assert "disk_verified_mb" in {one.name for one in found.figures}
    assert not list(tmp_path.glob(".*kaalia*"))


async def test_a_full_test_has_the_figures_of_the_measurement(trial: Trial) -> None:
    _, found = await asyncio.gather(measured(trial, 3500.0), run(trial, is_quick=False))

    assert found.outcome is Outcome.PASSED, found
    told = {one.name: (one.value, one.unit, one.spread) for one in found.figures}
    assert told.pop("disk_verified_mb")[0] >= 1
    assert told == {"disk_read_mbps": (3500.0, "MB/s", 0.02)}


async def test_why_nothing_was_measured_is_told(trial: Trial) -> None:
    reason = "fio is not installed: apt install fio"
    _, found = await asyncio.gather(measured(trial, None, reason), run(trial, is_quick=False))

    assert found.outcome is Outcome.PASSED
    assert found.words.endswith(f"its speed is not known: {reason}")


async def test_a_disk_that_is_full_fails(trial: Trial) -> None:
    report = replace(trial.bench.report, disk=Disk("/proc", 0, 0))
    await trial.bench.put_report(report)
    found = await run(trial, is_quick=True)

    assert (found.outcome, found.code) == (Outcome.FAILED, "disk_full")


async def test_where_docker_keeps_nothing_there_is_nothing_to_prove(trial: Trial) -> None:
    await trial.bench.put_report(replace(trial.bench.report, disk=None))
    found = await run(trial, is_quick=True)

    assert (found.outcome, found.words) == (Outcome.SKIPPED, "Docker's data root is not known")


async def ordered(trial: Trial) -> Order:
    for _ in range(12000):
        if (found := await trial.bench.rig.store.read(measurements.next_order)) is not None:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("nothing was ordered")


async def test_who_breaks_it_off_takes_the_measurement_back(trial: Trial) -> None:
    await trial.start()
    number = await trial.order(only=(StepName.DISK,))
    assert (await ordered(trial)).purpose == selftest.PURPOSE

    await trial.cancel(number)

    assert (await trial.ended()).result is RunResult.NOT_RUN
    assert await trial.bench.rig.store.read(measurements.next_order) is None


async def test_what_the_owner_wants_measured_stays_his_and_serves_the_test(trial: Trial) -> None:
    mine = Order(Ordered.DISK, trial.bench.clock.now())
    await trial.bench.rig.store.transaction(lambda tx: measurements.order(tx, mine))
    await trial.start()
    number = await trial.order(only=(StepName.DISK,))
    await trial.until_told("its speed is measured")

    await trial.cancel(number)
    await trial.ended()
    assert await trial.bench.rig.store.read(measurements.next_order) == mine

    await trial.order(only=(StepName.DISK,))
    await trial.until_told("its speed is measured")
    _, ended = await asyncio.gather(measured(trial, 3500.0), trial.ended())
    assert "disk_read_mbps" in {one.name for one in ended.steps[0].figures}
