"""Power limits and clocks by what a GPU does: bounds are kept, heat is guarded, and all is put back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.contract import ContractKind
from kaalia.contracts.power import Guard, Limits, PowerPolicy, Use, setting, use_of, wanted
from kaalia.model.power import GpuPower, PowerMark, PowerSetting

GPU = GpuPower("GPU-1", 0, "RTX 4090", 450, 450, 150, 450, 50, 3105)
POLICY = PowerPolicy({Use.IDLE: Limits(200, 900), Use.DEFAULT_JOB: Limits(300)}, Guard(85, 75))


@pytest.mark.parametrize(
    ("kinds", "use"),
    [
        ([], Use.IDLE),
        ([ContractKind.DEFAULT_JOB], Use.DEFAULT_JOB),
        ([ContractKind.ON_DEMAND], Use.RENTED),
        ([ContractKind.SELFTEST], Use.RENTED),
        ([ContractKind.DEFAULT_JOB, ContractKind.INTERRUPTIBLE], Use.RENTED),
    ],
)
def test_the_use_is_that_of_the_holders(kinds: list[ContractKind], use: Use) -> None:
    assert use_of(kinds) is use


def test_each_use_has_its_limits_and_a_rental_what_the_driver_gives() -> None:
    idle, job, rented = (wanted(POLICY, GPU, use, was_guarded=False) for use in (Use.IDLE, Use.DEFAULT_JOB, Use.RENTED))

    assert (idle.power_w, idle.clock_max_mhz) == (200, 900)
    assert (job.power_w, job.clock_max_mhz) == (300, None)
    assert (rented.power_w, rented.clock_max_mhz) == (None, None)


@pytest.mark.parametrize(
    ("limits", "gpu", "code"),
    [
        (Limits(power_w=100), GPU, "power_out_of_range"),
        (Limits(power_w=600), GPU, "power_out_of_range"),
        (Limits(clock_max_mhz=4000), GPU, "power_out_of_range"),
        (Limits(power_w=200), replace(GPU, min_w=None, max_w=None), "power_not_settable"),
    ],
)
def test_what_the_gpu_does_not_take_is_told_and_not_set(limits: Limits, gpu: GpuPower, code: str) -> None:
    want = wanted(PowerPolicy({Use.IDLE: limits}), gpu, Use.IDLE, was_guarded=False)

    assert [one.code for one in want.problems] == [code]
    assert (want.power_w, want.clock_max_mhz) == (None, None)
    assert setting(want, gpu, None) == (None, None)


@pytest.mark.parametrize(
    ("temperature_c", "before", "is_guarded"),
    [
        (85, False, False),
        (86, False, True),
        (80, True, True),
        (75, True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_the_guard_holds_from_hot_until_cool(temperature_c: int | None, before: bool, is_guarded: bool) -> None:
    gpu = replace(GPU, temperature_c=temperature_c)

    want = wanted(POLICY, gpu, Use.RENTED, was_guarded=before)

    assert want.is_guarded is is_guarded
    assert want.power_w == (150 if is_guarded else None)


def test_what_was_set_is_put_back_to_what_it_was() -> None:
    gpu = replace(GPU, limit_w=400)
    idle = wanted(POLICY, gpu, Use.IDLE, was_guarded=False)
    change, mark = setting(idle, gpu, None)
    assert change == PowerSetting("GPU-1", 200, 900)
    assert mark is not None
    limited = replace(gpu, limit_w=200)
    assert setting(idle, limited, mark) == (None, mark)

    rented = wanted(POLICY, limited, Use.RENTED, was_guarded=False)
    assert setting(rented, limited, mark) == (PowerSetting("GPU-1", 400, None, unlock=True), None)


def test_after_a_crash_the_clocks_are_set_once_more() -> None:
    mark = PowerMark("GPU-1", "", 450, 200, 900)
    idle = wanted(POLICY, GPU, Use.IDLE, was_guarded=False)

    assert setting(idle, replace(GPU, limit_w=200), mark, is_sure=False)[0] == PowerSetting("GPU-1", None, 900)


USES = st.lists(st.tuples(st.sampled_from(Use), st.one_of(st.none(), st.integers(30, 99))), max_size=20)


@given(USES, st.floats(150, 450))
def test_whatever_happens_the_limit_stays_in_bounds_and_comes_back(
    walk: list[tuple[Use, int | None]], before_w: float
) -> None:
    gpu, mark, guarded = replace(GPU, limit_w=before_w), None, False
    for use, temperature in [*walk, (Use.RENTED, 40)]:
        gpu = replace(gpu, temperature_c=temperature)
        want = wanted(POLICY, gpu, use, guarded)
        guarded = want.is_guarded
        change, mark = setting(want, gpu, mark)
        if change is not None and change.power_w is not None:
            gpu = replace(gpu, limit_w=change.power_w)
        assert gpu.limit_w is not None
        assert 150 <= gpu.limit_w <= 450
    assert mark is None
    assert gpu.limit_w is not None
    assert abs(gpu.limit_w - before_w) <= 2
