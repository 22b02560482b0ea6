"""Each rule of under_load.toml is broken by its own fault and by no other; what is not told breaks none."""

from collections.abc import Mapping

import pytest

from kaalia.contracts.under_load import Broken, Moment, figures, judge

WELL: Mapping[str, float] = {
    "utilization_percent": 99,
    "temperature_c": 70,
    "temperature_limit_c": 90,
    "memory_c": 80,
    "memory_limit_c": 95,
    "sm_clock_mhz": 2700,
    "sm_clock_max_mhz": 3100,
    "power_draw_w": 440,
    "clock_reasons": 0x04,
    "thermal_slowed_s": 5.0,
    "ecc_volatile_corrected": 700,
    "ecc_volatile_uncorrected": 2,
    "rows_failed": 0,
    "rows_pending": 0,
}
ENOUGH = 12
AT_THE_END = ENOUGH * 2 // 3


def burn(**faults: list[float] | float) -> list[Moment]:
    """Two GPUs, the second is well. A list is of the first and the last moments, a number of all but the first."""
    moments = []
    for number in range(ENOUGH):
        facts = dict(WELL)
        for name, fault in faults.items():
            if isinstance(fault, list):
                facts[name] = fault[number >= AT_THE_END]
            elif number:
                facts[name] = fault
        moments.append(Moment(2.0 * number, {"GPU-a": facts, "GPU-b": WELL}))
    return moments


def codes(found: tuple[Broken, ...]) -> list[tuple[str, str]]:
    return [(one.code, one.gpu_uuid) for one in found]


def test_what_is_well_breaks_no_rule() -> None:
    assert judge(burn()) == ()


@pytest.mark.parametrize(
    ("code", "faults", "words"),
    [
        ("load_ecc_uncorrected", {"ecc_volatile_uncorrected": 3.0}, "1 ECC errors that could not be corrected"),
        ("load_ecc_corrected", {"ecc_volatile_corrected": 710.0}, "ECC corrected 10 errors a minute"),
        ("load_row_remap_failed", {"rows_failed": 1.0}, "1 rows of its memory could not be remapped"),
        ("load_row_remap_pending", {"rows_pending": [0.0, 1.0]}, "is to be remapped"),
        ("load_thermal_throttled", {"thermal_slowed_s": [5.0, 16.0]}, "heat slowed it down 50% of the time"),
        ("load_too_hot", {"temperature_c": 92.0}, "it became 2 °C hotter than it is designed to"),
        ("load_memory_too_hot", {"memory_c": [80.0, 99.0]}, "its memory became 4 °C hotter"),
        ("load_clock_fell", {"sm_clock_mhz": [2700.0, 900.0]}, "its clock was 33% of what it was"),
        ("load_clock_low", {"sm_clock_mhz": 900.0, "clock_reasons": 0.0}, "29% of the highest"),
    ],
)
def test_each_fault_breaks_its_rule_and_no_other(code: str, faults: dict[str, list[float]], words: str) -> None:
    found = judge(burn(**faults))

    assert codes(found) == [(code, "GPU-a")]
    assert words in found[0].words
    assert found[0].remedy


def test_the_power_brake_is_also_the_hardware_that_slows_down() -> None:
    found = judge(burn(clock_reasons=float(0x80)))

    assert codes(found) == [("load_power_brake", "GPU-a"), ("load_hw_slowdown", "GPU-a")]
    assert "in 100% of the readings" in found[0].words


def test_one_reading_of_a_slowdown_may_be_a_change_of_clocks() -> None:
    """Of the few readings of a quick test it would be more than the share that is let pass."""
    for reasons in (0x08, 0x80):
        one = [Moment(m.at_s, {**m.facts, "GPU-a": {**WELL, "clock_reasons": reasons}}) for m in burn()[3:4]]
        assert judge([*burn()[:3], *one, *burn()[4:5]]) == ()


@pytest.mark.parametrize(
    ("minutes", "errors", "is_told"), [(0.5, 9, False), (0.5, 10, True), (4, 39, False), (4, 40, True)]
)
def test_corrected_errors_are_told_from_ten_a_minute(minutes: float, errors: int, is_told: bool) -> None:
    after = {**WELL, "ecc_volatile_corrected": 700 + errors}
    found = judge([Moment(0.0, {"GPU-a": WELL}), Moment(60 * minutes, {"GPU-a": after})])

    assert [(one.code, one.is_advice) for one in found] == [("load_ecc_corrected", True)] * is_told


def test_a_gpu_that_the_driver_loses_is_told_alone() -> None:
    moments = burn()
    moments[-1] = Moment(moments[-1].at_s, {"GPU-b": WELL})

    assert codes(judge(moments)) == [("load_gpu_lost", "GPU-a")]


def test_a_low_clock_with_a_reason_is_no_fault() -> None:
    for reason in (0x01, 0x02, 0x04, 0x10):
        assert judge(burn(sm_clock_mhz=900.0, clock_reasons=float(reason))) == ()


def test_clocks_while_it_idles_say_nothing() -> None:
    assert judge(burn(sm_clock_mhz=[2700.0, 210.0], utilization_percent=3.0, clock_reasons=0.0)) == ()


def test_what_is_not_told_breaks_no_rule() -> None:
    moments = [Moment(float(number), {"GPU-a": {}}) for number in range(ENOUGH)]

    assert judge(moments) == ()
    assert not list(figures(moments))
    assert judge([]) == ()


def test_a_counter_that_began_anew_says_nothing() -> None:
    assert judge(burn(ecc_volatile_uncorrected=[5.0, 0.0], thermal_slowed_s=[90.0, 1.0])) == ()


def test_heat_is_told_by_the_reasons_where_no_clock_of_it_runs() -> None:
    moments = [
        Moment(
            one.at_s,
            {uuid: {k: v for k, v in facts.items() if k != "thermal_slowed_s"} for uuid, facts in one.facts.items()},
        )
        for one in burn(clock_reasons=float(0x20))
    ]

    assert codes(judge(moments)) == [("load_thermal_throttled", "GPU-a")]


def test_figures_are_of_each_gpu() -> None:
    found = {(one.gpu_uuid, one.name): one.value for one in figures(burn(temperature_c=[60.0, 88.0]))}

    assert found["GPU-a", "temperature_max_c"] == 88
    assert found["GPU-b", "temperature_max_c"] == 70
    assert found["GPU-a", "clock_mhz"] == 2700
    assert found["GPU-a", "power_w"] == 440
    assert found["GPU-a", "ecc_grown"] == found["GPU-a", "ecc_corrected_grown"] == 0
