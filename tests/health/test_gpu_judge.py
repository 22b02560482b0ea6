"""What is told of GPUs, when, and when it is over: pure, reading by reading."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kaalia.health.gpu_findings import known_after
from kaalia.health.gpu_judge import Judge
from kaalia.health.gpu_rules import book
from kaalia.model.gpu_health import BusGpu, GpuReading, GpuSample, KnownGpu, NvmlState
from kaalia.model.health import HOST, Condition, Severity
from tests.support.clock import START
from tests.support.gpu_readings import OTHER, UUID, WELL, broken, reading, sample

BOOK = book()
IDLE = 5.0
"""Percent of use."""


class Watched:
    """A machine that is read each minute."""

    def __init__(self, *standing: Condition) -> None:
        self.judge = Judge(BOOK, standing)
        self.known: tuple[KnownGpu, ...] = ()
        self.minutes = 0
        self.found: list[Condition] = []

    def look(self, made: GpuReading) -> set[str]:
        made = replace(made, read_at=START + timedelta(minutes=self.minutes))
        self.minutes += 1
        self.known = known_after(made, self.known, BOOK)
        self.found = self.judge.judge(made, self.known)
        return {one.problem.code for one in self.found}

    def see(self, *gpus: GpuSample, times: int = 1, **more: Any) -> set[str]:
        for _ in range(times):
            codes = self.look(reading(*gpus, **more))
        return codes

    def told(self, code: str) -> Condition:
        (found,) = [one for one in self.found if one.problem.code == code]
        return found


SEEN_AT_ONCE = [
    ("gpu_ecc_uncorrected", {"ecc_volatile_uncorrected": 2}),
    ("gpu_ecc_history", {"ecc_aggregate_uncorrected": 1}),
    ("gpu_sram_worn", {"sram_threshold_exceeded": 1}),
    ("gpu_row_remap_failed", {"rows_failed": 1}),
    ("gpu_row_remap_pending", {"rows_pending": 1}),
    ("gpu_rows_remapped", {"rows_uncorrected": 3}),
    ("gpu_pages_retired", {"retired_pages": 63}),
    ("gpu_page_retirement_pending", {"retired_pages_pending": 1}),
    ("gpu_ecc_mode_pending", {"ecc_pending": 0}),
    ("gpu_hot", {"temperature_c": 88}),
    ("gpu_memory_hot", {"memory_c": 94}),
    ("gpu_clock_low", {"sm_clock_mhz": 900}),
    ("gpu_pcie_width", {"pci_width_current": 8}),
    ("gpu_pcie_generation", {"pci_gen_current": 1}),
    ("gpu_nvlink_down", {"nvlinks_up": 3}),
    ("gpu_fabric_waiting", {"fabric_state": 1}),
    ("gpu_fabric_waiting", {"fabric_state": 2}),
    ("gpu_fabric_failed", {"fabric_status": 999}),
    ("gpu_fabric_degraded", {"fabric_health": 0b01}),
    ("gpu_fabric_degraded", {"fabric_health": 0b01_0000}),
    ("gpu_mig_on", {"mig_current": 1}),
    ("gpu_persistence_off", {"persistence_mode": 0}),
    ("gpu_reset_required", {"recovery_action": 1}),
    ("gpu_reset_required", {"recovery_action": 4}),
    ("gpu_reboot_required", {"recovery_action": 2}),
    ("gpu_hw_slowdown", {"clock_reasons": 0x08}),
    ("gpu_power_brake", {"clock_reasons": 0x80}),
]
"""Code, and what one reading shows."""


def test_a_gpu_that_is_well_has_no_condition() -> None:
    assert Watched().see(sample(), sample(1, OTHER), times=12) == set()


@pytest.mark.parametrize(("code", "facts"), SEEN_AT_ONCE)
def test_a_fault_is_told_after_its_readings_and_over_after_its_readings(code: str, facts: dict[str, float]) -> None:
    rule, machine = BOOK.rules[code], Watched()
    machine.see(sample(), sample(1, OTHER))
    waits = {"gpu_hw_slowdown": 6, "gpu_power_brake": 3}.get(code, rule.samples)

    for _ in range(waits - 1):
        assert code not in machine.see(sample(**facts), sample(1, OTHER))
    assert code in machine.see(sample(**facts), sample(1, OTHER))

    told = machine.told(code)
    assert (told.scope, told.blocks) == (UUID, None)
    assert told.severity is rule.severity
    assert told.problem.message.startswith("cannot count on GPU 0 (RTX 4090, 0000:01:00.0): ")
    assert told.problem.evidence
    assert "{" not in told.problem.message + told.problem.remedy
    for _ in range(rule.clear_samples - 1):
        machine.see(sample(), sample(1, OTHER))
        assert code in {one.problem.code for one in machine.found} or code in ("gpu_hw_slowdown", "gpu_power_brake")
    assert code not in machine.see(sample(), sample(1, OTHER), times=15)
    assert machine.found == []


@pytest.mark.parametrize(
    ("code", "counter", "by_minute", "harmless"),
    [
        ("gpu_thermal_throttled", "thermal_slowed_s", 7, 5),
        ("gpu_pcie_replays", "pcie_replays", 9, 8),
        ("gpu_nvlink_errors", "nvlink_replays", 1, 0),
        ("gpu_nvlink_errors", "nvlink_recoveries", 1, 0),
        ("gpu_nvlink_crc", "nvlink_crc", 6060, 6000),
    ],
)
def test_a_counter_counts_by_how_fast_it_grows(code: str, counter: str, by_minute: float, harmless: float) -> None:
    machine = Watched()
    machine.see(sample(**{counter: 100_000}))

    value = 100_000.0
    for _ in range(10):
        value += harmless
        assert machine.see(sample(**{counter: value})) == set()
    for _ in range(BOOK.rules[code].samples):
        value += by_minute
        codes = machine.see(sample(**{counter: value}))
    assert codes == {code}

    assert machine.see(sample(**{counter: value}), times=BOOK.rules[code].clear_samples) == set()


def test_a_counter_that_begins_anew_says_nothing() -> None:
    machine = Watched()
    machine.see(sample(pcie_replays=5000))

    assert machine.see(sample(pcie_replays=20), times=2) == set()


def test_heat_is_seen_by_the_reasons_where_the_driver_has_no_clock_for_it() -> None:
    hot = broken(thermal_slowed_s="NVMLError_NotSupported")
    hot = replace(hot, facts={**hot.facts, "clock_reasons": 0x20})

    assert Watched().see(hot, times=12) == {"gpu_thermal_throttled"}


@pytest.mark.parametrize("facts", [{"pci_width_current": 1}, {"pci_gen_current": 1}, {"sm_clock_mhz": 210}])
def test_an_idle_gpu_may_go_down(facts: dict[str, float]) -> None:
    assert Watched().see(sample(utilization_percent=IDLE, **facts), times=12) == set()


def test_what_was_seen_under_load_stays_while_it_idles() -> None:
    machine = Watched()
    assert machine.see(sample(pci_width_current=4), times=3) == {"gpu_pcie_width"}

    assert machine.see(sample(utilization_percent=IDLE), times=20) == {"gpu_pcie_width"}
    assert machine.see(sample(), times=2) == set()


def test_a_slot_of_eight_lanes_gives_eight() -> None:
    slot = BusGpu("0000:01:00.0", "nvidia", gen_best=3, width_best=8)

    assert Watched().see(sample(pci_width_current=8, pci_gen_current=3), times=5, on_bus=(slot,)) == set()
    assert Watched().see(sample(pci_width_current=4, pci_gen_current=3), times=5, on_bus=(slot,)) == {"gpu_pcie_width"}


@pytest.mark.parametrize("reasons", [0x01, 0x02, 0x04, 0x10])
def test_a_clock_that_is_low_for_a_reason_is_no_fault(reasons: int) -> None:
    assert Watched().see(sample(sm_clock_mhz=500, clock_reasons=reasons), times=8) == set()


def test_a_power_limit_below_the_default_is_told_when_it_costs_much() -> None:
    machine = Watched()
    for minute in range(7):
        capped = sample(power_limit_w=200, sm_clock_mhz=1000, clock_reasons=0x04, power_slowed_s=minute * 50)
        codes = machine.see(capped)
    assert codes == {"gpu_power_throttled"}

    at_default = Watched()
    for minute in range(7):
        codes = at_default.see(sample(sm_clock_mhz=1000, clock_reasons=0x04, power_slowed_s=minute * 50))
    assert codes == set()


def test_links_that_never_were_up_are_none() -> None:
    assert Watched().see(sample(nvlinks_up=2), times=5) == set()


def test_gpus_without_a_fabric_wait_for_none() -> None:
    assert Watched().see(sample(fabric_state=0, fabric_status=3), times=5) == set()


def test_sensors_that_are_not_there_are_not_hot() -> None:
    assert Watched().see(sample(memory_c=0), sample(1, OTHER, memory_limit_c=0), times=5) == set()


# --- the driver ---

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
