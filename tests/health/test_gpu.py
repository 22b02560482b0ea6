"""GPU health as the daemon runs it: read by `capability`, judged here, kept in the store over restarts."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.capability.report import Inputs
from kaalia.capability.service import CapabilityService
from kaalia.health.gpu import GpuHealthService
from kaalia.host.nvml import NvmlProbe
from kaalia.model.gpu_health import GpuReading, NvmlState
from kaalia.model.health import HOST, OpenCondition, Severity
from kaalia.model.machine import Engine, PortRange
from kaalia.store import conditions, gpu_health, machine
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from tests.support.clock import FakeClock
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, setting, well, write
from tests.support.fake_nvidia.profiles import machine as gpus
from tests.support.gpu_readings import OTHER, UUID, reading, sample
from tests.support.serving import running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Rig:
    """The store between who reads and who judges."""

    def __init__(self, store: Database, changes: Changes, clock: FakeClock) -> None:
        self.store = store
        self.changes = changes
        self.clock = clock

    def service(self) -> GpuHealthService:
        return GpuHealthService(self.store, self.changes, self.clock, interval_s=60)

    async def show(self, made: GpuReading) -> None:
        self.clock.advance(60)
        now = GpuReading(self.clock.now(), self.clock.boot_id(), *[getattr(made, name) for name in FIELDS])
        await self.store.transaction(lambda tx: gpu_health.put(tx, now), Topic.GPUS)

    async def open_now(self) -> dict[tuple[str, str], OpenCondition]:
        found = [one for one in await self.store.read(conditions.all_open) if one.source == "gpu"]
        return {(one.condition.problem.code, one.condition.scope): one for one in found}

    async def until(self, *keys: tuple[str, str]) -> dict[tuple[str, str], OpenCondition]:
        async with asyncio.timeout(60):
            while set(found := await self.open_now()) != set(keys):
                await asyncio.sleep(0.01)
        return found


FIELDS = ("state", "reason", "error", "uncounted", "gpus", "on_bus")


@pytest.fixture
def rig(store: Database, changes: Changes, clock: FakeClock) -> Rig:
    return Rig(store, changes, clock)


async def test_what_is_wrong_is_told_and_past_when_it_is_over(rig: Rig) -> None:
    async with running(rig.service()):
        await rig.show(reading(sample(), sample(1, OTHER, rows_pending=1)))
        found = await rig.until(("gpu_row_remap_pending", OTHER))
        await rig.show(reading(sample(), sample(1, OTHER)))
        await rig.until()

    (one,) = found.values()
    assert one.condition.severity is Severity.WARN
    (over,) = await rig.store.read(lambda tx: conditions.past(tx, 9))
    assert (over.source, over.condition, over.since) == ("gpu", one.condition, one.since)
    assert over.until - over.since == timedelta(seconds=60)


async def test_a_restart_neither_ends_nor_begins_anything(rig: Rig) -> None:
    async with running(rig.service()):
        await rig.show(reading(sample(mig_current=1), sample(1, OTHER)))
        before = await rig.until(("gpu_mig_on", UUID))

    async with running(rig.service()):
        await rig.show(reading(sample(mig_current=1)))
        after = await rig.until(("gpu_mig_on", UUID), ("gpu_lost", OTHER))

    assert after["gpu_mig_on", UUID].since == before["gpu_mig_on", UUID].since
    assert await rig.store.read(lambda tx: conditions.past(tx, 9)) == ()
    assert [gpu.uuid for gpu in await rig.store.read(gpu_health.known)] == [OTHER, UUID]


async def test_without_readings_nothing_is_known(rig: Rig) -> None:
    async with running(rig.service()):
        await rig.show(reading(sample(mig_current=1)))
        await rig.until(("gpu_mig_on", UUID))

    async with running(GpuHealthService(rig.store, rig.changes, rig.clock, interval_s=0, overdue_s=0.05)):
        found = await rig.until(("gpu_mig_on", UUID), ("gpu_reading_old", HOST))
        await asyncio.sleep(0.2)
        assert await rig.open_now() == found, "once is enough"

    async with running(rig.service()):
        await rig.show(reading(sample()))
        await rig.until()

    assert found["gpu_reading_old", HOST].condition.severity is Severity.UNKNOWN


async def test_gpus_that_are_well_are_written_once(rig: Rig) -> None:
    async with running(rig.service()):
        await rig.show(reading(sample()))
        async with asyncio.timeout(60):
            while not (known := await rig.store.read(gpu_health.known)):
                await asyncio.sleep(0.01)
        await rig.show(reading(sample(mig_current=1)))
        await rig.until(("gpu_mig_on", UUID))

    assert await rig.store.read(gpu_health.known) == known


# --- with the simulated driver ---


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


MakeMachine = Callable[[float], CapabilityService]


@pytest.fixture
def make(rig: Rig, library: Path, tmp_path: Path) -> MakeMachine:
    """A machine whose GPUs are those of tmp_path/profile, with so long a deadline for its driver."""

    async def engine() -> Engine:
        return Engine("27.3.1", "1.47", "overlay2", "/", "2", True, False, "none")

    def made(deadline_s: float) -> CapabilityService:
        probe = NvmlProbe(env=environment(library, tmp_path / "profile"), deadline_s=deadline_s)
        inputs = Inputs(probe, engine, PortRange(40000, 40799), public_ip="203.0.113.7", root=tmp_path / "root")
        return CapabilityService(rig.store, rig.clock, inputs)

    return made


async def test_a_hung_driver_is_told_soon_after_its_deadline_and_is_over_when_it_answers(
    rig: Rig, make: MakeMachine, tmp_path: Path
) -> None:
    sound = well(gpus("2xA100"), 2)
    write(tmp_path / "profile", sound + fault("nvmlDeviceGetUtilizationRates", "hang"))
    subject, loop = make(2), asyncio.get_running_loop()

    async with running(rig.service()):
        began_s = loop.time()
        await subject.refresh()
        found = await rig.until(("gpu_driver_hung", HOST))
        took_s = loop.time() - began_s
        write(tmp_path / "profile", sound)
        rig.clock.advance(60)
        report = await subject.refresh()
        await rig.until()

    assert found["gpu_driver_hung", HOST].condition.problem.evidence == "the driver did not answer within 2 s"
    assert took_s < 2 + 10
    assert len(report.gpus) == 2


async def test_a_driver_that_cannot_be_killed_stays_hung_and_no_second_child_is_started(
    rig: Rig, make: MakeMachine, tmp_path: Path
) -> None:
    """As in an uninterruptible sleep of the kernel, which no test can bring about."""
    write(tmp_path / "profile", well(gpus("1xA100")))
    subject = make(60)
    stuck: Any = type("Stuck", (), {"alive": True, "pid": 4711})()
    probe: Any = subject._inputs.probe
    probe._stuck = stuck

    async with running(rig.service()):
        await subject.refresh()
        found = await rig.until(("gpu_driver_hung", HOST))
        assert "process 4711, see /proc/4711/stack" in found["gpu_driver_hung", HOST].condition.problem.evidence
        assert probe._stuck is stuck
        stuck.alive = False
        rig.clock.advance(60)
        await subject.refresh()
        await rig.until()


async def test_a_driver_that_dies_of_a_counter_leaves_the_report_whole(
    rig: Rig, make: MakeMachine, tmp_path: Path
) -> None:
    write(tmp_path / "profile", well(gpus("2xA100"), 2) + fault("nvmlDeviceGetMigMode", "abort"))

    async with running(rig.service()):
        report = await make(60).refresh()
        await rig.until(("gpu_counters_unread", HOST))

    assert len(report.gpus) == 2
    assert report.missing == (await rig.store.read(machine.get_report)).missing  # type: ignore[union-attr]


async def test_a_gpu_falls_off_and_comes_back(rig: Rig, make: MakeMachine, tmp_path: Path) -> None:
    sound = well(gpus("3xRTX_4090"), 3)
    write(tmp_path / "profile", sound)
    subject = make(60)

    async with running(rig.service()):
        await subject.refresh()
        write(tmp_path / "profile", setting(1, "lost_after", 0) + sound)
        rig.clock.advance(60)
        report = await subject.refresh()
        found = await rig.until(("gpu_lost", gpu_uuid(1)))
        write(tmp_path / "profile", sound)
        rig.clock.advance(60)
        await subject.refresh()
        await rig.until()

    assert found["gpu_lost", gpu_uuid(1)].condition.severity is Severity.CRITICAL
    assert [gpu.index for gpu in report.gpus] == [0, 2]


async def test_throttling_is_a_rate_of_what_the_driver_counts(rig: Rig, make: MakeMachine, tmp_path: Path) -> None:
    subject, sound = make(60), well(gpus("1xA100"))

    async with running(rig.service()):
        for minute in range(5):
            write(tmp_path / "profile", setting(0, "thermal_ns", minute * 15 * 10**9) + sound)
            rig.clock.advance(60)
            await subject.refresh()
        found = await rig.until(("gpu_thermal_throttled", gpu_uuid(0)))

    problem = found["gpu_thermal_throttled", gpu_uuid(0)].condition.problem
    assert "heat slows it down 25% of the time" in problem.message


async def test_a_machine_without_gpus_is_well(rig: Rig, tmp_path: Path) -> None:
    async with running(rig.service()):
        await rig.show(reading(state=NvmlState.NO_DRIVER))
        await rig.show(reading(sample(mig_current=1)))
        await rig.until(("gpu_mig_on", UUID))

    assert await rig.store.read(lambda tx: conditions.past(tx, 9)) == ()
