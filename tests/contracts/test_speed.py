"""From samples to a speed: the beginning is left out, steps make the confidence, and too little is no number."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import speed
from kaalia.contracts.speed import Leave, Sample
from kaalia.errors import HostError
from kaalia.model.speed import Confidence, Direction, Figure
from tests.support.builders import build_speed
from tests.support.clock import START

MB = 1_000_000


def steady(mb_per_s: float, seconds: float, begin_s: float = 100.0, every_s: float = 0.1) -> list[Sample]:
    return [
        Sample(begin_s + at * every_s, round(at * every_s * mb_per_s * MB))
        for at in range(round(seconds / every_s) + 1)
    ]


def figure(*counted: list[Sample], limited: bool = False) -> Figure:
    return speed.figure(Direction.DOWN, counted, 3.0, limited=limited)


def test_processes_add_up_though_they_were_asked_at_different_moments() -> None:
    found = figure(steady(100, 10), steady(25, 10, begin_s=100.04))

    assert found.mbps == pytest.approx(1000, rel=0.001)
    assert found.transferred_bytes == 1250 * MB
    assert found.duration_s == pytest.approx(8.5, abs=0.1), "a second and a half is left out"
    assert max(found.spread, found.margin) < 0.001
    assert found.confidence is Confidence.HIGH
    assert found.cpu_percent == pytest.approx(30, abs=1)


def test_a_slow_begin_does_not_count() -> None:
    slow = [Sample(at, 0) for at in (99.0, 99.5)]
    rest = [Sample(one.at_s, one.total_bytes) for one in steady(100, 10)]

    assert figure(slow + rest).mbps == pytest.approx(800, rel=0.01)


def test_a_rate_that_swings_is_trusted_less() -> None:
    def swinging(amount: float) -> list[Sample]:
        total, samples = 0.0, [Sample(0.0, 0)]
        for step in range(1, 101):
            total += 10 * MB * (1 + (amount if step % 10 < 5 else -amount))
            samples.append(Sample(step / 10, round(total)))
        return samples

    even, uneven, wild = (figure(swinging(amount)) for amount in (0.01, 0.3, 0.8))

    assert even.spread < uneven.spread < wild.spread
    assert [one.confidence for one in (even, uneven, wild)] == [Confidence.HIGH, Confidence.MEDIUM, Confidence.LOW]
    assert all(one.margin > 0 for one in (even, uneven, wild))


def test_a_short_or_limited_test_is_trusted_little() -> None:
    assert figure(steady(1000, 0.8)).confidence is Confidence.LOW
    assert figure(steady(100, 10), limited=True).confidence is Confidence.LOW


@pytest.mark.parametrize(
    "counted",
    [
        [],
        [[]],
        [[Sample(1.0, 10**9)]],
        [steady(100, 10), [Sample(1.0, 0)]],
        [steady(0, 10)],
        [steady(0.001, 10)],
        [steady(100, 1), steady(100, 1, begin_s=200)],
        [[Sample(0.0, 0), Sample(0.1, MB), *(Sample(float(at), MB) for at in range(1, 11))]],
    ],
    ids=["none", "empty", "one", "one process silent", "nothing", "a trickle", "never together", "all at the begin"],
)
def test_too_little_is_no_number(counted: list[list[Sample]]) -> None:
    with pytest.raises(HostError) as found:
        figure(*counted)

    assert found.value.code == "speed_too_little"


@given(
    mb_per_s=st.floats(1, 10_000),
    seconds=st.floats(0.5, 30),
    processes=st.integers(1, 4),
    shift=st.floats(0, 0.05),
)
def test_any_steady_flow_is_found_again(mb_per_s: float, seconds: float, processes: int, shift: float) -> None:
    found = figure(*(steady(mb_per_s, seconds, begin_s=5 + shift * number) for number in range(processes)))

    assert found.mbps == pytest.approx(8 * mb_per_s * processes, rel=0.02)


@pytest.mark.parametrize(
    ("running", "mbps", "has_result", "force", "wanted"),
    [
        (0, 0.0, False, False, Leave.FULL),
        (0, 0.0, True, False, Leave.FULL),
        (1, 0.0, False, False, Leave.LIMITED),
        (1, 9.0, False, False, Leave.LIMITED),
        (1, 11.0, False, False, Leave.WAIT),
        (1, 0.0, True, False, Leave.WAIT),
        (3, 900.0, True, True, Leave.FULL),
    ],
)
def test_tenants_are_left_alone(running: int, mbps: float, has_result: bool, force: bool, wanted: Leave) -> None:
    assert speed.leave(running, mbps, has_result=has_result, force=force) is wanted


def test_a_result_is_due_again_when_it_is_old_or_of_another_address() -> None:
    day, known = timedelta(hours=24), replace(build_speed(), measured_at=START, address="203.0.113.7")

    assert speed.is_due(None, START, day, "203.0.113.7")
    assert not speed.is_due(known, START + timedelta(hours=23), day, "203.0.113.7")
    assert speed.is_due(known, START + day, day, "203.0.113.7")
    assert speed.is_due(known, START, day, "203.0.113.8")
    assert speed.is_due(known, START - timedelta(hours=1), day, "203.0.113.7"), "a clock that was set back"
