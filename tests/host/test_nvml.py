"""The real probe, the real pynvml, a simulated driver: no fault of the driver reaches the daemon."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.host.nvml import NvmlProbe, NvmlReading, parse
from kaalia.model.gpu_health import NvmlState
from kaalia.model.machine import Missing
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import MODELS, fault, gpu_uuid, machine, setting, without, write

NO_DRIVER_HERE = {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def probe(library: Path, tmp_path: Path) -> Callable[..., NvmlProbe]:
    """Makes a probe that sees the simulated machine described by a profile text."""

    def make(profile: str, deadline_s: float = 60) -> NvmlProbe:
        write(tmp_path / "profile", profile)
        return NvmlProbe(env=environment(library, tmp_path / "profile"), deadline_s=deadline_s)

    return make


async def read(make: Callable[..., NvmlProbe], profile: str) -> NvmlReading:
    reading: NvmlReading = await make(profile).read()
    return reading


async def test_reads_every_field(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("2xRTX_4090"))

    assert (reading.state, reading.reason, reading.missing) == (NvmlState.OK, "", ())
    assert reading.driver is not None
    assert (reading.driver.version, reading.driver.cuda_version) == ("570.133.20", "12.8")
    assert reading.driver.simulated
    first, second = reading.gpus
    assert (first.uuid, second.uuid) == (gpu_uuid(0), gpu_uuid(1))
    assert (first.index, second.index) == (0, 1)
    assert (first.name, first.vram_mb, first.vram_used_mb) == ("NVIDIA GeForce RTX 4090", 24564, 1)
    assert (first.pci_address, second.pci_address) == ("0000:01:00.0", "0000:11:00.0")
    assert (first.pci_gen_max, first.pci_gen_current) == (4, 1)
    assert (first.pci_width_max, first.pci_width_current) == (16, 16)
    assert (first.power_limit_w, first.power_draw_w) == (450.0, 27.0)
    assert (first.temperature_c, first.temperature_limit_c) == (34, 90)
    assert (first.sm_clock_mhz, first.sm_clock_max_mhz, first.memory_clock_max_mhz) == (210, 3105, 10501)
    assert first.compute_capability == (8, 9)
    assert (first.utilization_percent, first.display_active) == (0, False)


@pytest.mark.parametrize("model", MODELS)
async def test_knows_every_model(probe: Callable[..., NvmlProbe], model: str) -> None:
    reading = await read(probe, machine(f"8x{model}"))

    assert [gpu.name for gpu in reading.gpus] == [MODELS[model].name] * 8
    assert len({gpu.uuid for gpu in reading.gpus}) == 8
    assert len({gpu.pci_address for gpu in reading.gpus}) == 8
    assert reading.missing == ()


async def test_mixed_models_keep_their_own_figures(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("1xRTX_3090+2xH100"))

    assert [gpu.vram_mb for gpu in reading.gpus] == [24576, 81559, 81559]
    assert [gpu.compute_capability for gpu in reading.gpus] == [(8, 6), (9, 0), (9, 0)]


async def test_a_change_of_the_machine_is_seen_at_the_next_reading(
    probe: Callable[..., NvmlProbe], tmp_path: Path
) -> None:
    subject = probe(machine("1xA100"))
    before = await subject.read()

    write(tmp_path / "profile", setting(0, "temperature_c", 91) + setting(0, "pci_width", 4) + machine("1xA100"))
    after = await subject.read()

    assert (before.gpus[0].temperature_c, before.gpus[0].pci_width_current) == (34, 16)
    assert (after.gpus[0].temperature_c, after.gpus[0].pci_width_current) == (91, 4)


async def test_names_the_processes_that_compute_or_draw(probe: Callable[..., NvmlProbe]) -> None:
    many = " ".join(str(pid) for pid in range(100, 140))
    text = setting(0, "processes", "4711 4712") + setting(0, "graphics_processes", "4712 900")
    reading = await read(probe, text + setting(1, "processes", many) + machine("3xRTX_4090"))

    assert reading.missing == ()
    assert [pid for uuid, pid in reading.processes if uuid == gpu_uuid(0)] == [900, 4711, 4712]
    assert [pid for uuid, pid in reading.processes if uuid == gpu_uuid(1)] == list(range(100, 140))
    assert len(reading.processes) == 43


async def test_a_gpu_that_does_not_tell_its_processes_hides_no_other(probe: Callable[..., NvmlProbe]) -> None:
    text = setting(0, "processes", 70) + setting(1, "processes", 71) + machine("2xRTX_4090")
    reading = await read(probe, text + fault("nvmlDeviceGetComputeRunningProcesses_v3", "error 3", gpu=1))

    assert reading.missing == (Missing("gpus.1.processes", "NVMLError_NotSupported"),)
    assert reading.processes == ((gpu_uuid(0), 70),)
    assert len(reading.gpus) == 2


async def test_an_older_driver_names_processes_too(tmp_path: Path) -> None:
    older = build(tmp_path, [f"nvmlDeviceGet{kind}RunningProcesses_v3" for kind in ("Compute", "Graphics")])
    write(tmp_path / "profile", setting(0, "processes", 4711) + machine("1xRTX_4090"))

    reading = await NvmlProbe(env=environment(older, tmp_path / "profile"), deadline_s=60).read()

    assert reading.processes == ((gpu_uuid(0), 4711),)


async def test_an_absent_library_is_legal() -> None:
    reading = await NvmlProbe(env=NO_DRIVER_HERE).read()

    assert reading.state is NvmlState.NO_DRIVER
    assert "libnvidia-ml.so.1" in reading.reason


async def test_a_library_that_cannot_be_loaded_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not a library")

    reading = await NvmlProbe(env={"LD_LIBRARY_PATH": str(tmp_path)}).read()

    assert reading.state is NvmlState.FAILED
    assert "invalid ELF header" in reading.reason or "file too short" in reading.reason


async def test_a_library_without_kernel_module_is_a_failure(library: Path, tmp_path: Path) -> None:
    reading = await NvmlProbe(env=environment(library, tmp_path / "absent")).read()

    assert (reading.state, reading.gpus) == (NvmlState.FAILED, ())
    assert "NVMLError_DriverNotLoaded" in reading.reason


async def test_a_mismatch_of_library_and_module_is_named(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("1xA100") + fault("nvmlInitWithFlags", "error 18"))

    assert reading.state is NvmlState.FAILED
    assert "NVMLError_LibRmVersionMismatch" in reading.reason


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetMaxPcieLinkGeneration", "pci_gen_max"),
        ("nvmlDeviceGetCurrPcieLinkGeneration", "pci_gen_current"),
        ("nvmlDeviceGetMaxPcieLinkWidth", "pci_width_max"),
        ("nvmlDeviceGetCurrPcieLinkWidth", "pci_width_current"),
        ("nvmlDeviceGetPciInfo_v3", "pci_address"),
        ("nvmlDeviceGetPowerUsage", "power_draw_w"),
        ("nvmlDeviceGetTemperatureV", "temperature_c"),
        ("nvmlDeviceGetTemperatureThreshold", "temperature_limit_c"),
        ("nvmlDeviceGetClockInfo", "sm_clock_mhz"),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability"),
        ("nvmlDeviceGetUtilizationRates", "utilization_percent"),
        ("nvmlDeviceGetDisplayActive", "display_active"),
    ],
)
async def test_an_unsupported_field_hides_no_other(probe: Callable[..., NvmlProbe], function: str, field: str) -> None:
    complete = await read(probe, machine("2xRTX_3090"))

    reading = await read(probe, machine("2xRTX_3090") + fault(function, "error 3", gpu=1))

    assert reading.state is NvmlState.OK
    assert reading.missing == (Missing(f"gpus.1.{field}", "NVMLError_NotSupported"),)
    assert reading.gpus[0] == complete.gpus[0]
    assert getattr(reading.gpus[1], field) is None
    present = {name: getattr(reading.gpus[1], name) for name in type(reading.gpus[1]).__dataclass_fields__}
    expected = {name: getattr(complete.gpus[1], name) for name in present} | {field: None}
    assert present == expected


async def test_a_key_absent_from_the_profile_is_not_supported(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, without(machine("1xT4"), "power_limit_mw"))

    assert reading.missing == (Missing("gpus.0.power_limit_w", "NVMLError_NotSupported"),)


async def test_older_models_tell_their_slowdown_temperature(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, without(machine("1xV100"), "gpu_max_c"))

    assert (reading.gpus[0].temperature_limit_c, reading.missing) == (88, ())


async def test_an_unknown_error_code_keeps_its_number(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("1xT4") + fault("nvmlDeviceGetPowerUsage", "error 4711"))

    assert reading.missing == (Missing("gpus.0.power_draw_w", "NVMLError 4711"),)


async def test_a_missing_symbol_is_a_missing_field(tmp_path: Path) -> None:
    older = build(tmp_path, missing=["nvmlDeviceGetPowerUsage", "nvmlSystemGetCudaDriverVersion_v2"])
    write(tmp_path / "profile", machine("1xA100"))

    reading = await NvmlProbe(env=environment(older, tmp_path / "profile")).read()

    assert reading.state is NvmlState.OK
    assert reading.missing == (
        Missing("driver.cuda_version", "NVMLError_FunctionNotFound"),
        Missing("gpus.0.power_draw_w", "NVMLError_FunctionNotFound"),
    )
    assert reading.driver is not None
    assert reading.driver.cuda_version is None


async def test_an_older_driver_without_the_new_temperature_call_still_tells_it(tmp_path: Path) -> None:
    older = build(tmp_path, missing=["nvmlDeviceGetTemperatureV"])
    write(tmp_path / "profile", machine("1xA100"))

    reading = await NvmlProbe(env=environment(older, tmp_path / "profile")).read()

    assert (reading.gpus[0].temperature_c, reading.missing) == (34, ())


async def test_a_library_without_the_mark_is_not_simulated(tmp_path: Path) -> None:
    unmarked = build(tmp_path, missing=["kaalia_simulated_driver"])
    write(tmp_path / "profile", machine("1xA100"))

    reading = await NvmlProbe(env=environment(unmarked, tmp_path / "profile")).read()

    assert reading.driver is not None
    assert not reading.driver.simulated


async def test_a_gpu_lost_from_the_start_is_named_and_the_others_stay(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("3xRTX_4090") + setting(1, "lost_after", 0))

    assert [gpu.index for gpu in reading.gpus] == [0, 2]
    assert reading.missing == (Missing("gpus.1", "cannot read its handle: NVMLError_GpuIsLost"),)


async def test_a_gpu_lost_while_being_read_keeps_what_was_read(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("1xRTX_4090") + setting(0, "lost_after", 5))

    assert reading.gpus[0].vram_mb == 24564
    assert reading.gpus[0].temperature_c is None
    assert Missing("gpus.0.temperature_c", "NVMLError_GpuIsLost") in reading.missing


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetUUID", "nvmlShutdown"])
async def test_a_call_that_hangs_is_ended_at_the_deadline_and_the_next_reading_works(
    probe: Callable[..., NvmlProbe], tmp_path: Path, function: str
) -> None:
    subject = probe(machine("1xA100") + fault(function, "hang"), deadline_s=3)

    async with asyncio.timeout(60):
        reading = await subject.read()

    assert (reading.state, reading.gpus) == (NvmlState.HUNG, ())
    assert reading.reason == "the driver did not answer within 3 s"
    write(tmp_path / "profile", machine("1xA100"))
    assert (await subject.read()).state is NvmlState.OK


async def test_a_slow_driver_is_not_a_hung_one(probe: Callable[..., NvmlProbe]) -> None:
    reading = await read(probe, machine("1xA100") + fault("nvmlInitWithFlags", "sleep_ms 300"))

    assert reading.state is NvmlState.OK


@pytest.mark.parametrize("verb", ["abort", "exit 0", "exit 3"])
async def test_a_driver_that_kills_its_process_is_a_failure_and_the_next_reading_works(
    probe: Callable[..., NvmlProbe], tmp_path: Path, verb: str
) -> None:
    subject = probe(machine("1xA100") + fault("nvmlDeviceGetName", verb))

    reading = await subject.read()

    assert (reading.state, reading.gpus) == (NvmlState.FAILED, ())
    assert "died" in reading.reason
    write(tmp_path / "profile", machine("1xA100"))
    assert (await subject.read()).state is NvmlState.OK


async def test_a_driver_that_prints_does_not_spoil_the_answer(probe: Callable[..., NvmlProbe]) -> None:
    noise = fault("nvmlDeviceGetName", 'print {"state": "no_driver"}')

    reading = await read(probe, machine("1xA100") + noise)

    assert (reading.state, len(reading.gpus)) == (NvmlState.OK, 1)


async def test_a_name_that_is_not_utf8_is_a_missing_gpu(probe: Callable[..., NvmlProbe], tmp_path: Path) -> None:
    subject = probe("")
    (tmp_path / "profile").write_bytes(b"gpu 0 name \xff\xfe\n" + machine("2xA100").encode())

    reading = await subject.read()

    assert [gpu.index for gpu in reading.gpus] == [1]
    assert "not UTF-8" in reading.missing[0].reason


async def test_a_missing_interpreter_is_a_failure() -> None:
    reading = await NvmlProbe(python="/no/such/python").read()

    assert reading.state is NvmlState.FAILED
    assert "/no/such/python" in reading.reason


async def test_no_child_is_left_behind(probe: Callable[..., NvmlProbe]) -> None:
    await read(probe, machine("1xA100"))

    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children if Path(f"/proc/{pid}").exists()]
    assert not [line for line in lines if b"nvml_probe" in line]


async def test_the_probe_stays_small() -> None:
    """It imports nothing of kaalia, nor pydantic: its memory counts in the daemon's budget."""
    script = (
        "import runpy, sys; sys.stdin = open('/dev/null');"
        f"runpy.run_path({str(Path('kaalia/host/nvml_probe.py').resolve())!r}, run_name='__main__');"
        "assert not {'kaalia', 'pydantic', 'asyncio'} & set(sys.modules), sorted(sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", script)

    assert await process.wait() == 0


@given(line=st.text() | st.sampled_from(['{"state": "ok"}', '{"state": "ok", "gpus": 3, "errors": {}}', "[]", "null"]))
def test_any_other_answer_is_a_failure(line: str) -> None:
    reading = parse(line)

    assert reading.state is NvmlState.FAILED
    assert "cannot understand" in reading.reason


@pytest.mark.gpu
async def test_reads_the_real_driver() -> None:
    reading = await NvmlProbe().read()

    assert reading.state is NvmlState.OK
    assert reading.gpus
    assert all(gpu.uuid.startswith("GPU-") and gpu.vram_mb > 0 for gpu in reading.gpus)
