"""What is told of GPUs that go, of a driver that fails, and over a restart: pure, reading by reading."""

from typing import Any

import pytest

from kaalia.model.gpu_health import BusGpu, GpuSample, NvmlState
from kaalia.model.health import HOST, Severity
from tests.support.gpu_readings import OTHER, UUID, WELL, Watched, broken, reading, sample

IDLE = 5.0
"""Percent of use."""

DRIVER: list[tuple[dict[str, Any], str, Severity]] = [
    ({"state": NvmlState.HUNG, "reason": "no answer within 30 s"}, "gpu_driver_hung", Severity.CRITICAL),
    ({"state": NvmlState.FAILED, "error": "NVMLError_DriverNotLoaded"}, "gpu_driver_not_loaded", Severity.CRITICAL),
    ({"state": NvmlState.FAILED, "error": "NVMLError_LibRmVersionMismatch"}, "gpu_driver_mismatch", Severity.CRITICAL),
    ({"state": NvmlState.FAILED, "error": "NVMLError_Unknown"}, "gpu_driver_failed", Severity.CRITICAL),
    ({"state": NvmlState.FAILED, "reason": "the probe died"}, "gpu_probe_failed", Severity.UNKNOWN),
    (
        {"state": NvmlState.NO_DRIVER, "on_bus": (BusGpu("0000:01:00.0", None),)},
        "gpu_driver_missing",
        Severity.CRITICAL,
    ),
]


@pytest.mark.parametrize(("how", "code", "severity"), DRIVER, ids=[code for _, code, _ in DRIVER])
def test_a_driver_that_fails_is_told_at_once_and_says_nothing_of_the_gpus(
    how: dict[str, Any], code: str, severity: Severity
) -> None:
    machine = Watched()
    machine.see(sample(rows_failed=1), sample(1, OTHER))

    assert machine.see(**how) == {code, "gpu_row_remap_failed"}
    told = machine.told(code)
    assert (told.scope, told.severity, told.blocks) == (HOST, severity, code != "gpu_driver_missing")

    assert machine.see(**how, times=200) == {code, "gpu_row_remap_failed"}, "not healthy because nobody can look"
    assert machine.see(sample(), sample(1, OTHER)) == set()


def test_a_machine_without_gpus_is_well() -> None:
    assert Watched().see(state=NvmlState.NO_DRIVER, times=3) == set()


def test_gpus_given_to_virtual_machines_need_no_driver() -> None:
    given = (BusGpu("0000:01:00.0", "vfio-pci"),)

    assert Watched().see(state=NvmlState.NO_DRIVER, on_bus=given) == set()


def test_counters_that_cannot_be_read_leave_all_as_it_was() -> None:
    machine = Watched()
    machine.see(sample(rows_pending=1))
    bare = GpuSample(0, UUID, "RTX 4090", "0000:01:00.0", {"temperature_c": 40})

    assert machine.see(bare, uncounted="the probe died", times=5) == {"gpu_row_remap_pending", "gpu_counters_unread"}
    assert machine.told("gpu_counters_unread").severity is Severity.UNKNOWN
    assert machine.see(sample()) == set()


# --- a GPU that goes ---


def test_a_gpu_that_is_gone_is_lost_until_it_is_back() -> None:
    machine = Watched()
    machine.see(sample(), sample(1, OTHER, rows_pending=1))

    assert machine.see(sample()) == {"gpu_lost", "gpu_row_remap_pending"}
    lost = machine.told("gpu_lost")
    assert (lost.scope, lost.severity) == (OTHER, Severity.CRITICAL)
    assert "GPU 1 (RTX 4090, 0000:02:00.0)" in lost.problem.message
    assert lost.problem.evidence == "seen last at 2026-01-01 12:00:00 UTC; the PCI bus shows it no more"

    assert machine.see(sample(), sample(1, OTHER)) == set()


def test_the_bus_says_whether_it_is_still_there() -> None:
    machine = Watched()
    bus = (BusGpu("0000:01:00.0", "nvidia"), BusGpu("0000:02:00.0", "nvidia"))
    machine.see(sample(), sample(1, OTHER), on_bus=bus)

    assert machine.see(sample(), on_bus=bus, times=3) == {"gpu_lost"}
    assert machine.told("gpu_lost").problem.evidence.endswith("the PCI bus still shows it (driver: nvidia)")


def test_a_gpu_given_to_a_virtual_machine_is_not_lost() -> None:
    machine = Watched()
    machine.see(sample(), sample(1, OTHER))

    assert machine.see(sample(), on_bus=(BusGpu("0000:02:00.0", "vfio-pci"),), times=3) == set()


@pytest.mark.parametrize("error", ["NVMLError_GpuIsLost", "NVMLError_GpuNotFound"])
def test_a_gpu_whose_handle_is_refused_keeps_its_name(error: str) -> None:
    machine = Watched()
    machine.see(sample(), sample(1, OTHER), sample(2, "GPU-2222"))

    nameless = GpuSample(1, None, errors={"handle": error})
    assert machine.see(sample(), nameless, sample(2, "GPU-2222")) == {"gpu_lost"}
    assert machine.told("gpu_lost").scope == OTHER


def test_a_gpu_that_never_had_a_name_is_called_by_its_number() -> None:
    machine = Watched()

    machine.see(sample(), GpuSample(1, None, errors={"handle": "NVMLError_Unknown"}), times=2)

    assert [(one.problem.code, one.scope) for one in machine.found] == [("gpu_unreadable", "gpu 1")]
    assert machine.see(sample(), sample(1, OTHER)) == set()


def test_after_a_boot_a_gpu_that_is_not_there_may_have_been_taken_out() -> None:
    machine = Watched()
    machine.see(sample(), sample(1, OTHER))
    assert machine.see(sample()) == {"gpu_lost"}

    assert machine.see(sample(), boot_id="boot-2") == {"gpu_removed"}
    assert machine.told("gpu_removed").severity is Severity.WARN
    machine.minutes += 72 * 60
    assert machine.see(sample(), boot_id="boot-2") == set()
    assert [gpu.uuid for gpu in machine.known] == [UUID]


def test_a_gpu_that_only_the_bus_ever_showed_is_named_by_its_place() -> None:
    bus = (BusGpu("0000:01:00.0", "nvidia"), BusGpu("0000:81:00.0", "nouveau"))
    machine = Watched()

    assert machine.see(sample(), on_bus=bus, times=2) == {"gpu_not_in_driver"}
    told = machine.told("gpu_not_in_driver")
    assert (told.scope, told.problem.evidence) == ("0000:81:00", "bound to nouveau")
    assert machine.see(sample(), on_bus=(bus[0], BusGpu("0000:81:00.0", "vfio-pci"))) == set()


# --- errors of single calls ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("NVMLError_GpuIsLost", "gpu_lost"),
        ("NVMLError_ResetRequired", "gpu_reset_required"),
        ("NVMLError_InsufficientPower", "gpu_power_missing"),
        ("NVMLError_IrqIssue", "gpu_interrupts_lost"),
        ("NVMLError_CorruptedInforom", "gpu_inforom_corrupted"),
        ("NVMLError_Unknown", "gpu_unreadable"),
        ("NVMLError_Timeout", "gpu_unreadable"),
        ("NVMLError 4711", "gpu_unreadable"),
        ("NVMLError_NotSupported", ""),
        ("NVMLError_FunctionNotFound", ""),
    ],
)
def test_an_error_names_the_fault_or_leaves_it_unknown(error: str, code: str) -> None:
    machine = Watched()

    assert machine.see(broken(rows=error), times=3) == ({code} if code else set())
    if code:
        assert machine.told(code).problem.evidence == f"rows: {error}"
    assert machine.see(sample(), times=2) == set()


def test_what_was_wrong_and_cannot_be_read_stays_wrong() -> None:
    machine = Watched()
    machine.see(sample(rows_failed=1))

    assert machine.see(broken(rows="NVMLError_Unknown"), times=9) == {"gpu_row_remap_failed", "gpu_unreadable"}
    assert machine.see(broken(rows="NVMLError_NotSupported"), times=9) == set()


# --- over a restart ---


def test_a_restart_forgets_nothing_that_one_reading_cannot_tell() -> None:
    before = Watched()
    before.see(sample(pci_width_current=4), times=3)

    after = Watched(*before.found)
    after.judge.remember(reading(sample()))
    assert after.see(sample(utilization_percent=IDLE), times=5) == {"gpu_pcie_width"}
    assert after.see(sample(), times=2) == set()


def test_a_restart_in_the_middle_of_a_window_ends_nothing() -> None:
    before = Watched()
    assert before.see(sample(clock_reasons=0x08), times=9) == {"gpu_hw_slowdown"}

    after = Watched(*before.found)
    after.judge.remember(reading(sample()))
    for _ in range(12):
        assert after.see(sample(clock_reasons=0x08)) == {"gpu_hw_slowdown"}
    assert after.see(sample(), times=8) == set()


def test_a_boot_ends_what_was_seen_under_load() -> None:
    before = Watched()
    before.see(sample(pci_width_current=4), times=3)

    after = Watched(*before.found)
    after.judge.remember(reading(sample()))
    assert after.see(sample(utilization_percent=IDLE), boot_id="boot-2") == set()


def test_every_fact_of_a_well_gpu_is_a_number() -> None:
    assert all(isinstance(value, int | float) for value in WELL.values())
