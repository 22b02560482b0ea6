"""GPUs are read while a step loads them, by the real binding and the simulated driver."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host.nvml import NvmlProbe
from kaalia.model.selftest import Sample
from kaalia.selftest import gpu_watch
from kaalia.selftest.gpu_watch import GpuWatch
from tests.support.clock import FakeClock
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, well, write

BUSY = setting(0, "utilization_percent", 100) + setting(1, "utilization_percent", 100)
MACHINE = BUSY + well(machine("2xRTX_4090"), 2)
UUIDS = (gpu_uuid(0), gpu_uuid(1))
EVERY_S = 0.01
DEADLINE_S = 60.0
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile"
    write(path, MACHINE)
    return path


def watch(library: Path, profile: Path, deadline_s: float = DEADLINE_S) -> GpuWatch:
    probe = NvmlProbe(env=environment(library, profile), deadline_s=deadline_s)
    return GpuWatch(probe, FakeClock(), UUIDS, EVERY_S)


async def load(heard: list[Sample], change: Callable[[], None] = lambda: None, readings: int = 4) -> str:
    """Ends when each GPU was read so often, after a change in the middle."""
    async with asyncio.timeout(PATIENCE_S):
        while len(heard) < readings:
            await asyncio.sleep(EVERY_S)
        change()
        while len(heard) < 2 * readings:
            await asyncio.sleep(EVERY_S)
    return "done"


async def test_samples_of_each_gpu_are_heard_and_what_is_well_breaks_nothing(library: Path, profile: Path) -> None:
    heard: list[Sample] = []
    seen = watch(library, profile)

    assert await seen.around(load(heard), heard.append) == "done"
    assert await seen.broken() == ()
    assert {one.gpu_uuid for one in heard} == set(UUIDS)
    assert (heard[0].temperature_c, heard[0].clock_mhz, heard[0].power_w) == (34, 210, 27.0)
    assert {one.name for one in seen.figures()} == {
        *("temperature_max_c", "clock_mhz", "power_w", "thermal_share", "ecc_grown", "ecc_corrected_grown")
    }


async def test_an_error_that_ecc_does_not_correct_is_seen_after_the_work_too(library: Path, profile: Path) -> None:
    async def work() -> None:
        write(profile, setting(1, "ecc_volatile_uncorrected", 1) + MACHINE)

    seen = watch(library, profile)
    await seen.around(work())

    assert [(one.code, one.gpu_uuid) for one in await seen.broken()] == [("load_ecc_uncorrected", gpu_uuid(1))]
    told = gpu_watch.words(await seen.broken(), {gpu_uuid(1): "GPU 1"}.__getitem__)
    assert told == "GPU 1: 1 ECC errors that could not be corrected"


async def test_a_storm_of_corrected_errors_is_told_as_advice(library: Path, profile: Path) -> None:
    async def work() -> None:
        write(profile, setting(1, "ecc_volatile_corrected", 40) + MACHINE)

    seen = watch(library, profile)
    await seen.around(work())

    assert [(one.code, one.gpu_uuid, one.is_advice) for one in await seen.broken()] == [
        ("load_ecc_corrected", gpu_uuid(1), True)
    ]


async def test_a_gpu_that_is_lost_in_the_middle_is_told(library: Path, profile: Path) -> None:
    heard: list[Sample] = []
    seen = watch(library, profile)
    await seen.around(load(heard, lambda: write(profile, f"system count 1\n{MACHINE}")), heard.append)

    assert [(one.code, one.gpu_uuid) for one in await seen.broken()] == [("load_gpu_lost", gpu_uuid(1))]


async def test_heat_is_told(library: Path, profile: Path) -> None:
    heard: list[Sample] = []
    seen = watch(library, profile)
    await seen.around(load(heard, lambda: write(profile, setting(0, "temperature_c", 97) + MACHINE)), heard.append)

    assert [one.code for one in await seen.broken()] == ["load_too_hot"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (fault("nvmlInitWithFlags", "error 9"), "load_driver_failed"),
        (fault("nvmlInitWithFlags", "abort"), "load_driver_failed"),
        (fault("nvmlDeviceGetName", "hang", 1), "load_driver_hung"),
    ],
)
async def test_work_is_broken_off_when_the_driver_no_longer_answers(
    library: Path, profile: Path, line: str, code: str
) -> None:
    heard: list[Sample] = []
    seen = watch(library, profile, deadline_s=6.0)
    with pytest.raises(HostError) as refused:
        await seen.around(load(heard, lambda: write(profile, MACHINE + line), 2), heard.append)

    assert refused.value.problem.code == code
    assert len(heard) < 1000


async def test_nothing_is_loaded_when_the_driver_does_not_answer_before(library: Path, profile: Path) -> None:
    began = False

    async def work() -> None:
        nonlocal began
        began = True

    write(profile, MACHINE + fault("nvmlInitWithFlags", "error 9"))
    with pytest.raises(HostError, match="cannot watch the GPUs"):
        await watch(library, profile).around(work())

    assert not began
