"""Energy belongs to whoever had the GPU at both readings; a counter that begins anew takes nothing away."""

from datetime import timedelta

from kaalia.contracts import energy
from kaalia.contracts.energy import Tally
from tests.support.clock import START

MINUTE = timedelta(minutes=1)


def test_what_was_used_between_two_readings_is_added() -> None:
    first = energy.counted(None, 5_000_000, START)
    second = energy.counted(first, 5_024_000, START + MINUTE)

    assert first == Tally(0, 5_000_000, START)
    assert second == Tally(24_000, 5_024_000, START + MINUTE)


def test_a_driver_that_was_loaded_anew_counts_from_nothing() -> None:
    assert energy.counted(Tally(70, 9_000_000, START), 4_000, START + MINUTE).total_mj == 4_070


def test_a_gpu_that_others_had_meanwhile_begins_anew() -> None:
    paused = energy.released(Tally(70, 100, START), START + MINUTE)

    assert energy.counted(paused, 9_000_000, START + 9 * MINUTE) == Tally(70, 9_000_000, START + 9 * MINUTE)


def test_a_counter_that_jumps_is_not_believed() -> None:
    jumped = energy.counted(Tally(0, 100, START), 2**60, START + MINUTE)

    assert jumped.total_mj == energy.MOST_W * 60 * 1000
    assert energy.counted(jumped, 2**60, START).total_mj == jumped.total_mj, "nor a clock that goes back"
