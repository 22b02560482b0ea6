"""Cause hides symptom, whoever found them."""

from kaalia.contracts.symptoms import causes
from kaalia.errors import Problem
from kaalia.model.health import HOST, Condition, OpenCondition, Severity
from tests.support.clock import START


def one(
    code: str,
    scope: str = "GPU-a",
    *hidden_by: str,
    source: str = "gpu",
    severity: Severity = Severity.CRITICAL,
) -> OpenCondition:
    problem = Problem(code, f"cannot count on {scope}")
    return OpenCondition(Condition(problem, severity, "never", scope, hidden_by=hidden_by), source, START)


def codes(*found: OpenCondition) -> list[str]:
    return [each.condition.problem.code for each in causes(found)]


def test_a_symptom_is_hidden_by_its_cause_of_another_source() -> None:
    lost, xid = one("gpu_lost", "GPU-a", "gpu_xid_79"), one("gpu_xid_79", source="kernel")

    assert codes(lost, xid) == ["gpu_xid_79"]
    assert codes(lost) == ["gpu_lost"]


def test_only_of_the_same_part_or_of_the_machine() -> None:
    lost = one("gpu_lost", "GPU-a", "gpu_xid_79", "gpu_driver_*")

    assert codes(lost, one("gpu_xid_79", "GPU-b")) == ["gpu_lost", "gpu_xid_79"]
    assert codes(lost, one("gpu_driver_hung", HOST)) == ["gpu_driver_hung"]
    assert codes(one("gpu_driver_hung", HOST, "gpu_lost"), one("gpu_lost")) == ["gpu_driver_hung", "gpu_lost"]


def test_a_star_ends_a_name_and_nothing_else() -> None:
    assert codes(one("gpu_hot", "GPU-a", "gpu_xid_14*"), one("gpu_xid_140")) == ["gpu_xid_140"]
    assert codes(one("gpu_hot", "GPU-a", "gpu_xid_14"), one("gpu_xid_140")) == ["gpu_hot", "gpu_xid_140"]


def test_a_chain_leaves_its_beginning() -> None:
    hot, slow = one("gpu_hot", "GPU-a", "gpu_slow"), one("gpu_slow", "GPU-a", "gpu_lost")

    assert codes(hot, slow, one("gpu_lost")) == ["gpu_lost"]


def test_two_that_hide_each_other_are_both_told() -> None:
    assert codes(one("a", "GPU-a", "b"), one("b", "GPU-a", "a")) == ["a", "b"]


def test_a_warning_hides_nothing_that_is_worse() -> None:
    """A driver that wants a reset is told, although an earlier Xid only asked to be watched."""
    watched = one("gpu_xid_63", source="kernel", severity=Severity.WARN)

    assert codes(watched, one("gpu_reset_required", "GPU-a", "gpu_xid_*")) == ["gpu_xid_63", "gpu_reset_required"]
    assert codes(watched, one("gpu_row_remap_pending", "GPU-a", "gpu_xid_63", severity=Severity.WARN)) == ["gpu_xid_63"]
    lost = one("gpu_lost", "GPU-a", "gpu_probe_failed", severity=Severity.UNKNOWN)
    assert codes(one("gpu_probe_failed", HOST, severity=Severity.WARN), lost) == ["gpu_probe_failed", "gpu_lost"]
