"""What conditions do to a verification: every entry of the data names conditions that exist, and bad ones are told."""

from datetime import timedelta
from fnmatch import fnmatchcase

import pytest

from kaalia.contracts import impact
from kaalia.contracts.impact import Impact
from kaalia.errors import Problem
from kaalia.health import book
from kaalia.health.kernel_lines import catalogue
from kaalia.model.health import HOST, Condition, OpenCondition, Severity
from tests.support.clock import START

NOT_YET = ("vm_*", "iommu_*")
"""Of virtual machines, which no part of this machine tells yet."""


def opened(code: str, severity: Severity = Severity.CRITICAL, scope: str = HOST) -> OpenCondition:
    return OpenCondition(Condition(Problem(code, f"cannot: {code}"), severity, "it is over", scope), "gpu", START)


def test_every_pattern_names_a_condition_of_the_catalogue() -> None:
    known = {*book.entries(), *(f"gpu_xid_{number}" for number in catalogue().xids)}
    for one in impact.effects():
        for pattern in one.ids:
            assert pattern in NOT_YET or any(fnmatchcase(code, pattern) for code in known), pattern


@pytest.mark.parametrize(
    ("code", "severity", "wanted"),
    [
        ("gpu_xid_79", Severity.CRITICAL, Impact.MACHINE),
        ("gpu_lost", Severity.CRITICAL, Impact.MACHINE),
        ("gpu_ecc_uncorrected", Severity.CRITICAL, Impact.MACHINE),
        ("engine_unavailable", Severity.CRITICAL, Impact.MACHINE),
        ("gpu_driver_mismatch", Severity.CRITICAL, Impact.MACHINE),
        ("ports_all_filtered", Severity.WARN, Impact.MACHINE),
        ("canary_quota_failed", Severity.CRITICAL, Impact.MACHINE),
        ("vm_memory_unsure", Severity.UNKNOWN, Impact.VM),
        ("disk_over_size", Severity.WARN, Impact.RENTAL),
        ("gpu_xid_13", Severity.WARN, None),
        ("gpu_reading_old", Severity.UNKNOWN, None),
        ("canary_pending", Severity.UNKNOWN, None),
        ("canary_launch_failed", Severity.WARN, None),
        ("gpu_hot", Severity.WARN, None),
    ],
)
def test_what_is_unknown_or_a_warning_costs_nothing_unless_the_data_say_so(
    code: str, severity: Severity, wanted: Impact | None
) -> None:
    found = impact.effect(code, severity)

    assert (None if found is None else found.impact) is wanted


def test_docker_may_restart_and_an_xid_may_not() -> None:
    engine, xid = (impact.effect(code, Severity.CRITICAL) for code in ("engine_unavailable", "gpu_xid_79"))

    assert engine is not None
    assert xid is not None
    assert (engine.grace, engine.needs_test) == (timedelta(minutes=10), False)
    assert (xid.grace, xid.needs_test) == (timedelta(0), True)


def test_the_marketplace_is_told_of_what_may_cost_a_verification_the_worst_first() -> None:
    told = impact.told(
        [
            opened("gpu_hot", Severity.WARN, "GPU-1"),
            opened("ports_all_filtered", Severity.WARN),
            opened("gpu_xid_79", scope="GPU-1"),
            opened("disk_limit_exceeded", scope="C.7"),
            opened("gpu_reading_old", Severity.UNKNOWN, "GPU-2"),
        ]
    )

    assert [(one.code, one.scope) for one in told] == [
        ("gpu_xid_79", "GPU-1"),
        ("disk_limit_exceeded", "C.7"),
        ("ports_all_filtered", HOST),
    ]


def test_a_machine_of_which_everything_is_wrong_says_no_more_than_fits() -> None:
    assert len(impact.told(opened("gpu_xid_79", scope=f"GPU-{number}") for number in range(500))) == impact.TOLD_MAX
