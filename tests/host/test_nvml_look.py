"""The process that looks: the real one, a simulated driver. Its words change whenever a reading would say otherwise."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.host import nvml_look, nvml_look_child, nvml_probe
from kaalia.host.nvml import NvmlProbe
from kaalia.host.nvml_look import Look, parse
from kaalia.host.patience import LEAST_S, Patience
from kaalia.model.gpu_health import GpuFigures, NvmlState
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.faults import OF_DRIVER, OF_GPU, Breakage
from tests.support.fake_nvidia.profiles import fault, machine, setting, well, write

SOUND = well(machine("3xH100"), 3)
NOT_WATCHED = {"gpu_hot", "gpu_memory_hot", "gpu_pcie_width", "gpu_pcie_generation", "gpu_power_brake"}
"""What lasts for minutes is told by readings at their turn."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
async def make(library: Path, tmp_path: Path) -> AsyncIterator[Callable[..., NvmlProbe]]:
    made: list[NvmlProbe] = []

    def probe(text: str, deadline_s: float = 60) -> NvmlProbe:
        write(tmp_path / "profile", text)
        made.append(NvmlProbe(env=environment(library, tmp_path / "profile"), deadline_s=deadline_s))
        return made[-1]

    yield probe
    for one in made:
        await one.rest()


MakeProbe = Callable[..., NvmlProbe]


def children() -> list[int]:
    """Of this process, those that look."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed if b"nvml_look_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_gpus_that_are_well_are_told_in_the_same_words_each_time(make: MakeProbe, tmp_path: Path) -> None:
    subject = make(SOUND)
    first = await subject.look()
    write(tmp_path / "profile", "".join(setting(0, *one) for one in MOVES) + SOUND)
    second = await subject.look()

    assert (first.state, first.stuck) == (NvmlState.OK, 0)
    assert first.marks == second.marks
    assert "=" not in re.sub(r"\.\w+=(3|13)\b", "", first.marks), "nothing failed"
    assert list(first.figures) == [0, 1, 2]
    assert second.figures[0] == GpuFigures(71, 312.5, 98, 1980)
    assert second.figures[1] == first.figures[1]
    assert 0 < second.cpu_s < 1


MOVES = (
    ("temperature_c", 71),
    ("power_mw", 312_500),
    ("utilization_percent", 98),
    ("sm_mhz", 1980),
    ("pci_gen", 5),
    ("energy_mj", 123_456_789),
    ("pcie_replays", 3),
    ("processes", "10 11 12"),
    ("vram_used_mb", 4096),
    ("power_ns", 10**12),
)
"""What goes up and down without being a fault."""


@pytest.mark.parametrize("breakage", [*OF_DRIVER, *OF_GPU], ids=lambda one: one.name)
async def test_each_fault_that_a_reading_sees_is_other_words(
    make: MakeProbe, tmp_path: Path, breakage: Breakage
) -> None:
    if breakage.code in NOT_WATCHED:
        pytest.skip("it lasts for minutes, or is none")
    subject = make(SOUND)
    well_before = await subject.look()
    subject._looking.usual_s = 1.0
    write(tmp_path / "profile", breakage.text(1) + SOUND)
    broken = await subject.look()
    write(tmp_path / "profile", SOUND)
    well_after = await subject.look()

    assert (broken.state, broken.marks) != (well_before.state, well_before.marks)
    assert (well_after.state, well_after.marks) == (NvmlState.OK, well_before.marks)


def calls_of(module_file: str) -> set[str]:
    text = Path(module_file).read_text()
    return {name for name in re.findall(r"nvmlDeviceGet\w+", text)} - {"nvmlDeviceGetCount", "nvmlDeviceGet"}


async def test_it_makes_every_call_that_a_reading_makes(make: MakeProbe, tmp_path: Path) -> None:
    """By name: of each function of NVML that a reading calls, an error that is not "not supported" is noticed."""
    subject, missed = make(SOUND), []
    before = await subject.look()
    for name in sorted(asked_by_readings()):
        write(tmp_path / "profile", fault(name, "error 999", gpu=2) + SOUND)
        if (await subject.look()).marks == before.marks:
            missed.append(name)

    assert missed == []


def asked_by_readings() -> set[str]:
    """As the library exports them: pynvml's names differ from those in places."""
    names = calls_of(str(nvml_probe.__file__))
    by_kind = {f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics")}
    return by_kind | {_EXPORTED.get(name, name) for name in names if name not in _FALLBACKS}


_EXPORTED = {
    "nvmlDeviceGetPciInfo": "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetHandleByIndex": "nvmlDeviceGetHandleByIndex_v2",
}
_FALLBACKS = {
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetEnforcedPowerLimit",
}


async def test_the_library_is_loaded_by_forks_only(make: MakeProbe) -> None:
    """So that nothing is open between looks, and a new library is found."""
    subject = make(SOUND)
    await subject.look()

    (pid,) = children()
    assert "libnvidia-ml" not in Path(f"/proc/{pid}/maps").read_text()
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 3


async def test_a_driver_that_is_exchanged_is_met_anew(library: Path, tmp_path: Path) -> None:
    old, new = build(tmp_path / "old", missing=["nvmlDeviceGetMigMode"]), library
    (tmp_path / "here").symlink_to(old)
    write(tmp_path / "profile", SOUND)
    subject = NvmlProbe(env=environment(tmp_path / "here", tmp_path / "profile"))
    before = await subject.look()
    (tmp_path / "here").unlink()
    (tmp_path / "here").symlink_to(new)
    after = await subject.look()
    await subject.rest()

    assert "0.MigMode=13" in before.marks
    assert "0.MigMode" not in after.marks


async def test_without_a_driver_that_is_said() -> None:
    subject = NvmlProbe(env={"PATH": os.environ["PATH"]})
    found = await subject.look()
    await subject.rest()

    assert found.state is NvmlState.NO_DRIVER
    assert children() == []


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetUUID", "nvmlShutdown"])
async def test_a_call_that_hangs_is_ended_and_the_next_look_works(
    make: MakeProbe, tmp_path: Path, function: str
) -> None:
    subject = make(SOUND + fault(function, "hang"), deadline_s=1)
    found = await subject.look()
    (pid,) = children()
    forks = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    write(tmp_path / "profile", SOUND)

    assert (found.state, found.stuck) == (NvmlState.HUNG, 0)
    assert found.marks == "the driver did not answer within 1 s"
    assert forks == ""
    assert (await subject.look()).state is NvmlState.OK
    assert children() == [pid], "it is the same one"


async def test_what_cannot_be_killed_is_told_and_nothing_else_is_started(
    make: MakeProbe, library: Path, tmp_path: Path
) -> None:
    """A process that SIGKILL does not end cannot be made here: one whose fork counts as such, by its own program."""
    program = tmp_path / "stuck_child.py"
    source = Path(nvml_look_child.__file__).read_text()
    program.write_text(source.replace("os.kill(pid, signal.SIGKILL)", "None"))
    subject = make(SOUND + fault("nvmlDeviceGetName", "hang"), deadline_s=0.5)
    subject._looker._argv = (*subject._looker._argv[:-1], str(program))

    found = await subject.look()
    again = await subject.look()
    reading = await subject.read()
    (parent,) = [pid for pid in _children_of(os.getpid()) if b"stuck_child" in _cmdline(pid)]
    forks = _children_of(parent)

    assert found.state is again.state is reading.state is NvmlState.HUNG
    assert [found.stuck, again.stuck] == forks * 2
    assert "cannot be killed" in reading.reason
    assert str(found.stuck) in reading.reason
    os.kill(forks[0], 9)
    write(tmp_path / "profile", SOUND)
    async with asyncio.timeout(30):
        while (found := await subject.look()).state is NvmlState.HUNG:
            await asyncio.sleep(0.02)
    assert found.state is NvmlState.OK
    assert (await subject.read()).state is NvmlState.OK


def _children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_process_that_was_killed_is_started_again(make: MakeProbe) -> None:
    subject = make(SOUND)
    await subject.look()
    (pid,) = children()
    os.kill(pid, 9)
    async with asyncio.timeout(30):
        while (await subject.look()).state is not NvmlState.OK:
            await asyncio.sleep(0.02)

    assert children() != [pid]


async def test_looks_and_readings_wait_for_each_other(make: MakeProbe) -> None:
    subject = make(SOUND)
    found = await asyncio.gather(subject.look(), subject.read(), subject.look(), subject.survey())

    assert [one[0].state if isinstance(one, tuple) else one.state for one in found] == [NvmlState.OK] * 4


async def test_it_loads_little() -> None:
    """It stays in memory."""
    script = (
        f"import sys; sys.stdin = open('/dev/null'); name = {nvml_look_child.__file__!r};"
        "exec(compile(open(name).read(), name, 'exec'), {'__name__': '__main__'});"
        "heavy = {'kaalia', 'pynvml', 'json', 're', 'enum', 'typing', 'select', 'collections'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", script)

    assert await process.wait() == 0


@given(line=st.text() | st.sampled_from(["1\tok\ta", "1\tok\ta\t0:1.2", "x\tok\ta\t", "1\thung\tx", "", "1\tno\tx"]))
def test_any_other_answer_is_a_failure(line: str) -> None:
    found = parse(line)

    assert found.state is NvmlState.FAILED
    assert "cannot understand" in found.marks


def test_answers_are_understood() -> None:
    assert parse("2.5\tok\tgpus:1 0.MigMode=3\t0:41.62000.?.210") == Look(
        NvmlState.OK, "gpus:1 0.MigMode=3", {0: GpuFigures(41, 62.0, None, 210)}, 0.0025
    )
    assert parse("1.00\thung\t") == Look(NvmlState.HUNG, "", {}, 0.001)
    assert parse("0\thung\t77") == Look(NvmlState.HUNG, "", {}, 0.0, 77)
    assert parse("1\tdied\tsignal 6") == Look(NvmlState.FAILED, "signal 6", {}, 0.001)
    assert nvml_look.CHILD.exists()


def test_patience_is_for_who_usually_answers_at_once() -> None:
    subject = Patience(30)
    assert subject.now_s == 30, "nothing is known yet"
    subject.answered(0.05)
    assert subject.now_s == LEAST_S
    for expected in (8, 16, 30, 30):
        subject.in_vain()
        assert subject.now_s == expected
    subject.forget()
    assert subject.now_s == LEAST_S
    subject.answered(5)
    assert subject.now_s == 15
    assert Patience(2).now_s == 2
    short = Patience(2)
    short.answered(0.1)
    assert short.now_s == 2, "the most is the most"
