"""How GPUs are, by the simulated driver: every counter, and every way in which a call of it can go wrong."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.capability.samples import of_reading
from kaalia.health.gpu_findings import known_after
from kaalia.health.gpu_judge import Judge
from kaalia.health.gpu_rules import book
from kaalia.host.nvml import NvmlProbe, NvmlReading, with_counters
from kaalia.host.nvml_probe import _fields
from kaalia.model.gpu_health import GpuSample, KnownGpu, NvmlState
from kaalia.model.health import Severity
from tests.support.clock import START
from tests.support.fake_nvidia.build import build, environment
from tests.support.fake_nvidia.profiles import fault, gpu_uuid, machine, setting, well, write

BOOK = book()
MakeProbe = Callable[..., NvmlProbe]

CALLS = {
    "nvmlDeviceGetUUID": "",
    "nvmlDeviceGetName": "",
    "nvmlDeviceGetMemoryInfo": "",
    "nvmlDeviceGetPciInfo_v3": "pci_address",
    "nvmlDeviceGetMaxPcieLinkGeneration": "pci_gen_max",
    "nvmlDeviceGetCurrPcieLinkGeneration": "pci_gen_current",
    "nvmlDeviceGetMaxPcieLinkWidth": "pci_width_max",
    "nvmlDeviceGetCurrPcieLinkWidth": "pci_width_current",
    "nvmlDeviceGetPowerUsage": "power_draw_w",
    "nvmlDeviceGetTemperatureV": "temperature_c",
    "nvmlDeviceGetTemperatureThreshold": "temperature_limit_c",
    "nvmlDeviceGetClockInfo": "sm_clock_mhz",
    "nvmlDeviceGetMaxClockInfo": "sm_clock_max_mhz",
    "nvmlDeviceGetCudaComputeCapability": "compute_capability",
    "nvmlDeviceGetUtilizationRates": "utilization_percent",
    "nvmlDeviceGetDisplayActive": "display_active",
    "nvmlDeviceGetComputeRunningProcesses_v3": "processes",
    "nvmlDeviceGetEccMode": "ecc",
    "nvmlDeviceGetTotalEccErrors": "ecc_volatile_uncorrected",
    "nvmlDeviceGetSramEccErrorStatus": "sram_threshold_exceeded",
    "nvmlDeviceGetRemappedRows": "rows",
    "nvmlDeviceGetRetiredPages": "retired_pages",
    "nvmlDeviceGetRetiredPagesPendingStatus": "retired_pages_pending",
    "nvmlDeviceGetCurrentClocksEventReasons": "clock_reasons",
    "nvmlDeviceGetViolationStatus": "thermal_slowed_s",
    "nvmlDeviceGetPowerManagementDefaultLimit": "power_default_w",
    "nvmlDeviceGetPcieReplayCounter": "pcie_replays",
    "nvmlDeviceGetNvLinkState": "nvlinks",
    "nvmlDeviceGetFieldValues": "recovery_action",
    "nvmlDeviceGetGpuFabricInfoV": "fabric",
    "nvmlDeviceGetPersistenceMode": "persistence_mode",
    "nvmlDeviceGetMigMode": "mig",
}
"""Every call about a GPU, and the field that it fills; "" where the GPU is nothing without it."""
_NAMES = [name for name in vars(pynvml) if name.startswith("NVML_ERROR_")]
CODES = sorted({getattr(pynvml, name) for name in _NAMES} | {4711})
RETRIED = {
    ("nvmlDeviceGetTemperatureV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    ("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    ("nvmlDeviceGetCurrentClocksEventReasons", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    # Which tells the other temperature then.
    ("nvmlDeviceGetTemperatureThreshold", pynvml.NVML_ERROR_NOT_SUPPORTED),
    # So the driver says that there is no such link.
    ("nvmlDeviceGetNvLinkState", pynvml.NVML_ERROR_INVALID_ARGUMENT),
    # So it says how many there are.
    ("nvmlDeviceGetRetiredPages", pynvml.NVML_ERROR_INSUFFICIENT_SIZE),
    ("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_INSUFFICIENT_SIZE),
}
"""Errors that a call has in its good order."""
EVERY = well(machine(f"{len(CODES) + 1}xH100"), len(CODES) + 1)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def probe(library: Path, tmp_path: Path) -> MakeProbe:
    def make(profile: str, deadline_s: float = 60) -> NvmlProbe:
        write(tmp_path / "profile", profile)
        return NvmlProbe(env=environment(library, tmp_path / "profile"), deadline_s=deadline_s)

    return make


@pytest.fixture(scope="module")
def calm(library: Path, tmp_path_factory: pytest.TempPathFactory) -> NvmlReading:
    """Of the machine with as many GPUs as there are errors, and one more; all are well."""
    path = tmp_path_factory.mktemp("calm") / "profile"
    write(path, EVERY)
    return asyncio.run(NvmlProbe(env=environment(library, path), deadline_s=60).read())


def judged(*readings: NvmlReading) -> dict[str, tuple[str, Severity]]:
    """Scope -> code and severity, after these readings; of a bus that shows nothing."""
    judge, known, found = Judge(BOOK), tuple[KnownGpu, ...](), {}
    for minute, reading in enumerate(readings):
        seen = of_reading(reading, (), "boot-1", START + timedelta(minutes=minute))
        known = known_after(seen, known, BOOK)
        conditions = judge.judge(seen, known)
        found = {one.scope: (one.problem.code, one.severity) for one in conditions}
        assert len(found) == len(conditions), "one for each part"
    return found


async def test_reads_every_counter(probe: MakeProbe) -> None:
    (found,) = (await probe(well(machine("1xH100"))).read()).samples

    assert (found.index, found.uuid, found.name) == (0, gpu_uuid(0), "NVIDIA H100 80GB HBM3")
    assert found.errors == {}
    assert (found.facts["ecc_current"], found.facts["ecc_pending"]) == (1, 1)
    assert (found.facts["nvlinks_count"], found.facts["nvlinks_up"]) == (4, 4)
    assert (found.facts["fabric_state"], found.facts["rows_failed"], found.facts["memory_limit_c"]) == (3, 0, 95)
    assert (found.facts["temperature_c"], found.facts["power_default_w"]) == (34, 700)


async def test_tells_what_is_wrong(probe: MakeProbe) -> None:
    wrong = {"remapped_rows": "7 2 1 1", "nvlinks": "1 0 1 0", "retired_single": 3, "retired_double": 4}
    more = {"thermal_ns": 1_500_000_000, "clock_reasons": 0x48, "recovery_action": 2, "fabric": "2 27 0x11"}
    lines = "".join(setting(0, key, value) for key, value in {**wrong, **more}.items())

    (found,) = (await probe(lines + well(machine("1xA100"))).read()).samples

    facts = found.facts
    assert [facts[f"rows_{part}"] for part in ("corrected", "uncorrected", "pending", "failed")] == [7, 2, 1, 1]
    assert (facts["nvlinks_count"], facts["nvlinks_up"], facts["retired_pages"]) == (4, 2, 7)
    assert (facts["thermal_slowed_s"], facts["clock_reasons"], facts["recovery_action"]) == (1.5, 0x48, 2)
    assert (facts["fabric_state"], facts["fabric_status"], facts["fabric_health"]) == (2, 27, 0x11)


async def test_a_plain_card_lacks_most_and_is_well(probe: MakeProbe) -> None:
    subject = probe(machine("2xRTX_4090"))

    readings = [await subject.read(), await subject.read()]

    assert readings[0].samples[0].errors["ecc"] == "NVMLError_NotSupported"
    assert readings[0].missing == ()
    assert judged(*readings) == {}


async def test_an_older_driver_lacks_the_newer_calls_and_is_well(tmp_path: Path) -> None:
    newer = [name for name, field in CALLS.items() if field and name != "nvmlDeviceGetPciInfo_v3"]
    older = build(tmp_path, missing=newer)
    write(tmp_path / "profile", well(machine("1xA100")))
    subject = NvmlProbe(env=environment(older, tmp_path / "profile"), deadline_s=60)

    readings = [await subject.read(), await subject.read()]

    assert readings[0].state is readings[0].counting is NvmlState.OK
    assert judged(*readings) == {}


async def test_numbered_fields_that_a_driver_does_not_know_are_none_of_it(probe: MakeProbe) -> None:
    invalid, broken = pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_UNKNOWN
    lines = setting(0, "unknown_field", invalid) + setting(1, "unknown_field", broken)

    reading = await probe(lines + machine("2xA100")).read()

    assert reading.samples[0].errors["recovery_action"] == "NVMLError_NotSupported"
    assert judged(reading, reading) == {gpu_uuid(1): ("gpu_unreadable", Severity.UNKNOWN)}


def test_a_binding_that_lacks_a_name_lacks_a_field_and_no_more() -> None:
    readers = {"old": lambda gpu: 7, "new": lambda gpu: pynvml.NVML_FI_DEV_OF_TOMORROW}

    assert _fields(readers, lambda reader: reader(None)) == {"old": 7, "errors": {"new": "NVMLError_FunctionNotFound"}}


async def test_reasons_for_the_clock_are_read_from_a_driver_that_calls_them_otherwise(tmp_path: Path) -> None:
    older = build(tmp_path, missing=["nvmlDeviceGetCurrentClocksEventReasons"])
    write(tmp_path / "profile", setting(0, "clock_reasons", 8) + well(machine("1xA100")))

    (found,) = (await NvmlProbe(env=environment(older, tmp_path / "profile"), deadline_s=60).read()).samples

    assert found.facts["clock_reasons"] == 8


@pytest.mark.parametrize("function", CALLS)
async def test_every_error_of_every_call_is_named_or_unknown(
    probe: MakeProbe, calm: NvmlReading, function: str
) -> None:
    """A machine of as many GPUs as there are errors, each with its own, and one that is well."""
    faults = "".join(fault(function, f"error {code}", gpu) for gpu, code in enumerate(CODES))

    reading = await probe(faults + EVERY).read()
    found = judged(calm, reading, reading)

    assert judged(calm) == {}
    assert reading.state is reading.counting is NvmlState.OK
    assert gpu_uuid(len(CODES)) not in found
    for gpu, code in enumerate(CODES):
        if (function, code) in RETRIED:
            continue
        assert found.get(gpu_uuid(gpu)) == expected(code, is_vital=not CALLS[function]), f"error {code}"


def expected(code: int, *, is_vital: bool) -> tuple[str, Severity] | None:
    """What is told of a GPU of which a call always fails so."""
    name = type(pynvml.NVMLError(code)).__name__
    if name in BOOK.absent and not is_vital:
        return None
    rule = BOOK.rules[BOOK.errors.get(name, "gpu_unreadable")]
    return rule.id, rule.severity


@pytest.mark.parametrize("code", CODES)
async def test_every_error_of_the_driver_itself_is_told(probe: MakeProbe, code: int) -> None:
    functions = ("nvmlInitWithFlags", "nvmlDeviceGetCount_v2")
    for function in functions:
        reading = await probe(machine("1xA100") + fault(function, f"error {code}")).read()

        (found,) = judged(reading).items()
        name = type(pynvml.NVMLError(code)).__name__
        told = BOOK.driver_errors.get(name, "gpu_driver_failed")
        if (function, code) == ("nvmlInitWithFlags", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND):
            continue  # then the library itself is looked for
        assert found == ("host", (told, Severity.CRITICAL))


@pytest.mark.parametrize(
    ("function", "code", "is_told"),
    [
        ("nvmlSystemGetDriverVersion", pynvml.NVML_ERROR_NOT_SUPPORTED, True),
        ("nvmlSystemGetDriverVersion", pynvml.NVML_ERROR_TIMEOUT, True),
        ("nvmlSystemGetCudaDriverVersion_v2", pynvml.NVML_ERROR_UNKNOWN, True),
        ("nvmlSystemGetCudaDriverVersion_v2", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, False),
        ("nvmlShutdown", pynvml.NVML_ERROR_UNKNOWN, False),  # it is let go with its process
    ],
)
async def test_an_error_of_what_the_driver_tells_of_itself(
    probe: MakeProbe, function: str, code: int, is_told: bool
) -> None:
    reading = await probe(machine("1xA100") + fault(function, f"error {code}")).read()

    assert (reading.state, len(reading.gpus)) == (NvmlState.OK, 1)
    assert judged(reading, reading) == ({"host": ("gpu_version_untold", Severity.UNKNOWN)} if is_told else {})


@pytest.mark.parametrize("function", [name for name, field in CALLS.items() if field][17:])
async def test_a_driver_that_dies_of_a_counter_has_told_its_gpus(probe: MakeProbe, function: str) -> None:
    reading = await probe(well(machine("2xH100"), 2) + fault(function, "abort", gpu=1)).read()

    assert (reading.state, len(reading.gpus), reading.missing) == (NvmlState.OK, 2, ())
    assert reading.counting is NvmlState.FAILED
    assert "died" in reading.uncounted
    assert judged(reading) == {"host": ("gpu_counters_unread", Severity.UNKNOWN)}


async def test_a_driver_that_hangs_over_a_counter_is_hung_and_has_told_its_gpus(
    probe: MakeProbe, tmp_path: Path
) -> None:
    subject = probe(well(machine("1xH100")) + fault("nvmlDeviceGetGpuFabricInfoV", "hang"), deadline_s=3)

    reading = await subject.read()

    assert (reading.state, len(reading.gpus), reading.counting) == (NvmlState.OK, 1, NvmlState.HUNG)
    assert judged(reading) == {"host": ("gpu_driver_hung", Severity.CRITICAL)}
    write(tmp_path / "profile", well(machine("1xH100")))
    assert judged(reading, await subject.read()) == {}


async def test_a_gpu_lost_between_two_calls_is_lost(probe: MakeProbe) -> None:
    profile = well(machine("2xA100"), 2)
    calm = await probe(profile).read()

    for calls in (1, 5, 20, 40):
        reading = await probe(setting(1, "lost_after", calls) + profile).read()
        assert judged(calm, reading) == {gpu_uuid(1): ("gpu_lost", Severity.CRITICAL)}, f"after {calls} calls"
        assert judged(calm, reading, calm) == {}


async def test_a_gpu_that_vanishes_and_returns(probe: MakeProbe) -> None:
    both, one = await probe(machine("2xA100")).read(), await probe(machine("1xA100")).read()

    assert judged(both, one) == {gpu_uuid(1): ("gpu_lost", Severity.CRITICAL)}
    assert judged(both, one, both) == {}


def test_counters_of_another_gpu_are_not_taken_for_its_own() -> None:
    mine = NvmlReading(NvmlState.OK, samples=(GpuSample(0, "GPU-a", "A100", None, {"temperature_c": 40}),))
    answer = '{"state": "ok", "gpus": [{"index": 0, "uuid": "GPU-b", "pcie_replays": 9, "errors": {}}]}'

    (found,) = with_counters(mine, answer).samples

    assert dict(found.facts) == {"temperature_c": 40}
    assert "changed" in found.errors["counters"]


@given(line=st.text() | st.sampled_from(['{"state": "ok"}', '{"state": "ok", "gpus": [3]}', "[]", "null", "{}"]))
def test_any_other_answer_leaves_the_counters_unread(line: str) -> None:
    mine = NvmlReading(NvmlState.OK, samples=(GpuSample(0, "GPU-a"),))

    reading = with_counters(mine, line)

    assert reading.uncounted
    assert replace(reading, counting=NvmlState.OK, uncounted="") == mine
