"""Between two reports: what breaks is told within seconds, and is over when the driver says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.capability import watch
from kaalia.capability.report import Inputs
from kaalia.capability.service import CapabilityService
from kaalia.capability.watch import GpuWatchService
from kaalia.clock import Clock, SystemClock
from kaalia.health import gpu
from kaalia.health.gpu import GpuHealthService
from kaalia.host.nvml import NvmlProbe
from kaalia.model.gpu_health import GpuReading, NvmlState
from kaalia.model.health import HOST
from kaalia.model.machine import Engine, PortRange
from kaalia.store import conditions, gpu_health
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from tests.capability.conftest import MakeProbe
from tests.support.clock import FakeClock
from tests.support.fake_nvidia.faults import OF_DRIVER, OF_GPU, Breakage
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, well, write
from tests.support.serving import running

SOUND = well(machine("2xH100"), 2)
LOOK_S = 0.1
BY_NAME = {one.name: one for one in (*OF_DRIVER, *OF_GPU)}


class Rig:
    """Who reads once an hour, who looks, and who judges."""

    def __init__(self, store: Database, changes: Changes, clock: Clock, probe: NvmlProbe, root: Path) -> None:
        async def engine() -> Engine:
            return Engine("27.3.1", "1.47", "overlay2", "/", "2", True, False, "none")

        inputs = Inputs(probe, engine, PortRange(40000, 40799), public_ip="203.0.113.7", root=root)
        self.store = store
        self.capability = CapabilityService(store, clock, inputs, interval_s=3600, changes=changes)
        self.watch = GpuWatchService(store, changes, clock, probe, LOOK_S)
        self.health = GpuHealthService(store, changes, clock, interval_s=3600)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for service in (self.health, self.watch, self.capability):
                await stack.enter_async_context(running(service))
            yield

    async def until(self, *wanted: tuple[str, str]) -> None:
        """Just these are told of the GPUs."""
        async with asyncio.timeout(60):
            while (found := await self.told()) != set(wanted):
                await asyncio.sleep(0.02)
        assert found == set(wanted)

    async def told(self) -> set[tuple[str, str]]:
        found = [one for one in await self.store.read(conditions.all_open) if one.source == "gpu"]
        return {(one.condition.problem.code, one.condition.scope) for one in found}

    async def first_look(self) -> None:
        async with asyncio.timeout(60):
            while not self.watch.figures():
                await asyncio.sleep(0.02)


MakeRig = Callable[[str], Rig]


@pytest.fixture
def rig(store: Database, changes: Changes, simulated: MakeProbe, tmp_path: Path) -> MakeRig:
    return lambda text: Rig(store, changes, SystemClock(), simulated(text), tmp_path / "root")


@pytest.mark.parametrize(
    "name",
    [
        "the kernel's driver is not loaded",
        "the library aborts at its start",
        "it fell off the bus",
        "a call has an error of tomorrow",
        "an ECC error",
        "persistence mode is off",
    ],
)
async def test_what_breaks_is_told_between_two_reports_and_is_over_when_it_is(
    rig: MakeRig, profile: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "AGAIN_S", 0.1)
    monkeypatch.setattr(gpu, "AFTERWARDS_S", 0.5)
    breakage: Breakage = BY_NAME[name]
    subject = rig(SOUND)
    async with subject.running():
        await subject.first_look()
        write(profile, breakage.text(1) + SOUND)
        await subject.until((breakage.code, gpu_uuid(1) if breakage.of_gpu else HOST))
        write(profile, SOUND)
        await subject.until()


async def test_a_driver_that_hangs_is_told_by_the_look_and_is_over_when_it_answers(rig: MakeRig, profile: Path) -> None:
    subject = rig(SOUND)
    async with subject.running():
        await subject.first_look()
        subject.watch._probe._looking.usual_s = 0.5
        write(profile, SOUND + fault("nvmlDeviceGetUtilizationRates", "hang"))
        await subject.until(("gpu_driver_hung", HOST))
        reading = await subject.store.read(gpu_health.get)
        write(profile, SOUND)
        await subject.until()

    assert reading is not None
    assert (reading.state, reading.gpus, reading.out_of_turn) == (NvmlState.HUNG, (), True)
    assert "did not answer within" in reading.reason


async def test_a_reading_that_failed_is_not_left_so_while_the_driver_is_well(
    rig: MakeRig, profile: Path, store: Database, changes: Changes
) -> None:
    subject = rig(SOUND)
    async with subject.running():
        await subject.first_look()
        before = await store.read(gpu_health.get)
        assert before is not None
        hung = replace(before, state=NvmlState.HUNG, reason="once", gpus=())
        await store.transaction(lambda tx: gpu_health.put(tx, hung), Topic.GPUS)
        async with asyncio.timeout(60):
            while (now := await store.read(gpu_health.get)) is None or now.state is not NvmlState.OK:
                await asyncio.sleep(0.02)

    assert await subject.told() == set()


class Counted:
    """How often a reading was asked for."""

    def __init__(self, changes: Changes) -> None:
        self.bell = changes.subscribe(Topic.DRIVER)

    def __call__(self) -> bool:
        rang = self.bell.is_set()
        self.bell.clear()
        return rang


async def test_a_gpu_that_comes_and_goes_does_not_keep_the_machine_busy(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    probe = simulated(SOUND)
    subject, asked = GpuWatchService(store, changes, clock, probe, LOOK_S), Counted(changes)
    count = 0
    for number in range(watch.READINGS + 10):
        write(profile, SOUND if number % 2 else setting(0, "mig", "1 1") + SOUND)
        await subject.look()
        count += asked()
    clock.advance(watch.READING_EVERY_S)
    write(profile, setting(0, "mig", "0 1") + SOUND)
    await subject.look()
    later = asked()
    await probe.rest()

    assert count == watch.READINGS
    assert later, "what was held back is read in time"


async def test_nothing_new_asks_for_no_reading(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe, profile: Path
) -> None:
    probe = simulated(SOUND)
    subject, asked = GpuWatchService(store, changes, clock, probe, LOOK_S), Counted(changes)
    rang = []
    for temperature_c in range(40, 46):
        write(profile, setting(0, "temperature_c", temperature_c) + SOUND)
        await subject.look()
        rang.append(asked())
    figures = subject.figures()
    await probe.rest()

    assert rang == [True, False, False, False, False, False], "at first, since nothing was known"
    assert figures[0].temperature_c == 45


async def test_without_a_driver_nothing_is_kept(store: Database, changes: Changes, clock: FakeClock) -> None:
    subject = GpuWatchService(store, changes, clock, NvmlProbe(env={}), LOOK_S)
    async with running(subject):
        changes.ring(Topic.GPUS)
        async with asyncio.timeout(60):
            while subject._seen is None:
                await asyncio.sleep(0.02)
            while subject._probe._looker._child is not None:
                await asyncio.sleep(0.02)


async def test_a_reading_out_of_turn_does_not_put_off_the_turn(
    store: Database, clock: FakeClock, changes: Changes, simulated: MakeProbe
) -> None:
    async def engine() -> Engine:
        return Engine("27.3.1", "1.47", "overlay2", "/", "2", True, False, "none")

    inputs = Inputs(simulated(SOUND), engine, PortRange(40000, 40799), public_ip="203.0.113.7")
    subject = CapabilityService(store, clock, inputs, interval_s=60, changes=changes)

    async def read() -> GpuReading:
        await subject.refresh()
        found = await store.read(gpu_health.get)
        assert found is not None
        return found

    turns = [(await read()).out_of_turn]
    for seconds in (20, 20, 25):
        clock.advance(seconds)
        changes.ring(Topic.DRIVER)
        turns.append((await read()).out_of_turn)
    clock.advance(1)
    turns.append((await read()).out_of_turn)

    assert turns == [False, True, True, False, False]
