"""Who waits how long, and who gives up."""

import pytest

from kaalia.errors import KaaliaError, UnreachableError, WorkloadError
from kaalia.reconciler.actions import Action, Launch, Stop
from kaalia.reconciler.retries import POSTPONED_S, RETRY_S, UNEXPECTED_S, Retries
from tests.support.builders import build_contract

LAUNCH = Launch(build_contract(), ())
STOP = Stop(51, 1, "stopped")


def test_waits_grow_and_another_kind_of_action_does_not_wait() -> None:
    retries, now_s = Retries(), 100.0
    waits = []
    for _ in range(6):
        waits.append(retries.failed(51, LAUNCH, now_s))
        assert not retries.may_try(51, LAUNCH, now_s)
        assert retries.may_try(51, STOP, now_s)
        assert retries.may_try(52, LAUNCH, now_s)
        assert retries.next_s(now_s) == now_s + waits[-1]
        now_s += waits[-1]
        assert retries.may_try(51, LAUNCH, now_s)
    assert waits == [*RETRY_S, RETRY_S[-1], RETRY_S[-1]]


@pytest.mark.parametrize(
    ("action", "error", "is_hopeless"),
    [
        (LAUNCH, WorkloadError("image_not_found", "cannot pull"), True),
        (LAUNCH, WorkloadError("registry_rate_limited", "cannot pull"), False),
        (LAUNCH, UnreachableError("marketplace_unreachable", "cannot ask for a login"), False),
        (LAUNCH, WorkloadError("volume_missing", "cannot mount"), False),
        (LAUNCH, WorkloadError("network_exists", "cannot create"), False),
        (STOP, WorkloadError("stop_stuck", "cannot stop"), False),
    ],
)
def test_only_launches_and_starts_are_given_up(action: Action, error: KaaliaError, is_hopeless: bool) -> None:
    assert Retries().is_hopeless(51, action, error) is is_hopeless


def test_a_launch_is_given_up_after_its_attempts_and_a_silent_engine_does_not_count() -> None:
    retries, error = Retries(), WorkloadError("pull_stalled", "cannot pull")
    for _ in range(9):
        retries.postpone(51, LAUNCH, 0.0)
    for _ in RETRY_S:
        assert not retries.is_hopeless(51, LAUNCH, error)
        retries.failed(51, LAUNCH, 0.0)
        retries.begin(51, LAUNCH, 0.0)

    assert retries.is_hopeless(51, LAUNCH, error)
    retries.clear(51)
    assert not retries.is_hopeless(51, LAUNCH, error)
    assert retries.next_s(0.0) is None


def test_an_action_that_ends_in_an_unforeseen_way_has_its_pause() -> None:
    retries = Retries()
    retries.begin(51, LAUNCH, 0.0)
    assert not retries.may_try(51, LAUNCH, UNEXPECTED_S - 1)
    assert retries.may_try(51, LAUNCH, UNEXPECTED_S)

    retries.postpone(51, LAUNCH, 0.0)
    assert retries.may_try(51, LAUNCH, POSTPONED_S)
