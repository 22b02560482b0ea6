"""What is told of GPUs, when, and when it is over: pure, reading by reading."""

from dataclasses import replace

import pytest

from kaalia.model.gpu_health import BusGpu
from kaalia.model.power import PowerMark
from tests.support.gpu_readings import BOOK, OTHER, UUID, Watched, broken, reading, sample

IDLE = 5.0
"""Percent of use."""


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


def test_what_the_power_policy_holds_is_no_fault() -> None:
    machine = Watched()
    machine.set_here = {UUID: PowerMark(UUID, "boot-1", 450, 200, 800)}
    for minute in range(8):
        codes = machine.see(sample(power_limit_w=200, sm_clock_mhz=790, clock_reasons=0x04, power_slowed_s=minute * 50))
    assert codes == set()
    assert machine.see(sample(sm_clock_mhz=790), times=8) == set()

    assert machine.see(sample(sm_clock_mhz=300), times=8) == {"gpu_clock_low"}


def test_links_that_never_were_up_are_none() -> None:
    assert Watched().see(sample(nvlinks_up=2), times=5) == set()


def test_gpus_without_a_fabric_wait_for_none() -> None:
    assert Watched().see(sample(fabric_state=0, fabric_status=3), times=5) == set()


def test_sensors_that_are_not_there_are_not_hot() -> None:
    assert Watched().see(sample(memory_c=0), sample(1, OTHER, memory_limit_c=0), times=5) == set()


def test_readings_out_of_turn_tell_what_is_so_and_nothing_of_what_lasts() -> None:
    machine = Watched()
    machine.see(sample(), times=12)

    def out_of_turn(**facts: float) -> set[str]:
        return machine.look(replace(reading(sample(**facts)), out_of_turn=True))

    for _ in range(12):
        hot = out_of_turn(temperature_c=89, pci_width_current=8, clock_reasons=0x80, fabric_state=1)
    assert hot == set()
    assert out_of_turn(rows_pending=1) == {"gpu_row_remap_pending"}
    assert out_of_turn(fabric_status=9) == set()
    sure = [machine.judge.is_unsure]
    assert out_of_turn(fabric_status=9) == {"gpu_fabric_failed"}
    sure.append(machine.judge.is_unsure)
    assert out_of_turn() == set()
    machine.see(sample(temperature_c=89))
    assert [*sure, machine.judge.is_unsure] == [True, False, False], "heat takes its time"


def test_rates_are_counted_from_turn_to_turn() -> None:
    """What was repeated in the two seconds before tells nothing of a minute."""
    machine = Watched()
    machine.see(sample(pcie_replays=0))
    before = machine.judge._earlier[UUID]
    for replays in (10, 20, 30):
        machine.look(replace(reading(sample(pcie_replays=replays)), out_of_turn=True))

    assert machine.judge._earlier[UUID] == before
    assert "gpu_pcie_replays" not in machine.see(sample(pcie_replays=30)), "30 in four minutes"
