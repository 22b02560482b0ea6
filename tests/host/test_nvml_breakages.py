"""Each way to break the simulated driver or a GPU is told by its condition, of that GPU alone, and is over with it."""

from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.capability.samples import of_reading
from kaalia.health.gpu_findings import known_after
from kaalia.health.gpu_judge import Judge
from kaalia.health.gpu_rules import book
from kaalia.host.nvml import NvmlProbe, NvmlReading
from kaalia.model.gpu_health import KnownGpu
from kaalia.model.health import HOST
from tests.support.clock import START
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.faults import OF_DRIVER, OF_GPU, Breakage
from tests.support.fake_nvidia.profiles import gpu_uuid, machine, write

BOOK = book()
PATIENCE = 4
"""Readings until the slowest of them is told."""
CALM = 12
"""Readings until the slowest is over: what stood in the window of reasons has left it."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


class Machine:
    def __init__(self) -> None:
        self.judge = Judge(BOOK)
        self.known: tuple[KnownGpu, ...] = ()
        self.minutes = 0

    def look(self, reading: NvmlReading, times: int = 1) -> set[tuple[str, str]]:
        """Code and part of what stands after the same reading, so often."""
        for _ in range(times):
            at = START + timedelta(minutes=self.minutes)
            seen = of_reading(reading, (), "boot-1", at)
            self.minutes += 1
            self.known = known_after(seen, self.known, BOOK)
            found = self.judge.judge(seen, self.known)
        return {(one.problem.code, one.scope) for one in found}


@pytest.mark.parametrize("breakage", OF_DRIVER, ids=lambda one: one.name)
async def test_a_broken_driver(library: Path, tmp_path: Path, breakage: Breakage) -> None:
    subject = NvmlProbe(env=environment(library, tmp_path / "profile"), deadline_s=3)
    write(tmp_path / "profile", machine("2xRTX_4090"))
    whole, one = await subject.read(), Machine()
    assert one.look(whole) == set()

    write(tmp_path / "profile", breakage.text() + machine("2xRTX_4090"))
    assert one.look(await subject.read(), BOOK.rules[breakage.code].samples) == {(breakage.code, HOST)}
    assert one.look(whole) == set()


async def test_broken_gpus(library: Path, tmp_path: Path) -> None:
    """All of them at once, each GPU in its own way; the last two are well."""
    sound = machine(f"{len(OF_GPU) + 2}xRTX_4090")
    subject = NvmlProbe(env=environment(library, tmp_path / "profile"), deadline_s=60)
    write(tmp_path / "profile", sound)
    whole, one = await subject.read(), Machine()
    assert one.look(whole, 2) == set()

    write(tmp_path / "profile", "".join(each.text(gpu) for gpu, each in enumerate(OF_GPU)) + sound)
    broken = await subject.read()
    found = one.look(broken, PATIENCE)

    for gpu, each in enumerate(OF_GPU):
        assert {code for code, scope in found if scope == gpu_uuid(gpu)} == {each.code}, each.name
    assert len(found) == len(OF_GPU)
    assert one.look(whole, CALM) & {(each.code, gpu_uuid(gpu)) for gpu, each in enumerate(OF_GPU)} == {
        ("gpu_pcie_width", gpu_uuid(_index("gpu_pcie_width"))),
        ("gpu_pcie_generation", gpu_uuid(_index("gpu_pcie_generation"))),
    }, "an idle GPU says nothing of its link"


def _index(code: str) -> int:
    return [each.code for each in OF_GPU].index(code)


def test_there_is_a_breakage_for_every_condition_that_a_profile_can_show() -> None:
    shown = {each.code for each in (*OF_DRIVER, *OF_GPU)}
    growing = {
        *("gpu_thermal_throttled", "gpu_power_throttled", "gpu_hw_slowdown", "gpu_clock_low", "gpu_pcie_replays"),
        *("gpu_nvlink_down", "gpu_nvlink_errors", "gpu_nvlink_crc"),
    }
    of_bus_and_time = {"gpu_driver_missing", "gpu_not_in_driver", "gpu_removed", "gpu_reading_old"}

    assert shown | growing | of_bus_and_time == set(BOOK.rules)
    assert not shown & (growing | of_bus_and_time)
