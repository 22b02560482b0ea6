"""The catalogue of GPU faults: each entry is whole, and names only what there is."""

from collections.abc import Iterator

import pynvml
import pytest

from kaalia.health import gpu_facts
from kaalia.health.book import entries
from kaalia.health.gpu_rules import Rule, book
from kaalia.health.kernel_lines import catalogue
from kaalia.host.nvml_probe import COUNTERS, GPU_FIELDS
from kaalia.model.health import Severity

BOOK = book()
RULES = list(BOOK.rules.values())
PARTS = ("current", "pending", "corrected", "uncorrected", "failed", "count", "up", "state", "status", "health")


def facts() -> Iterator[str]:
    yield from gpu_facts._WORKED_OUT
    for name in (*COUNTERS, *GPU_FIELDS):
        yield name
        yield from (f"{name}_{part}" for part in PARTS)


def known_codes() -> set[str]:
    return {*entries(), *(f"gpu_recovery_{name}" for name in catalogue().actions)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_an_entry_is_whole(rule: Rule) -> None:
    assert rule.id.startswith("gpu_")
    assert all((rule.says, rule.remedy, rule.clears, rule.source))
    assert rule.samples >= 1
    assert rule.clear_samples >= 1
    assert (rule.fact != "") == (rule.above is not None or rule.below is not None)
    assert rule.above is None or rule.below is None
    assert "{" not in rule.says.format(value=1.0, limit=rule.limit)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.fact], ids=lambda rule: rule.id)
def test_an_entry_is_about_a_fact_that_is_read(rule: Rule) -> None:
    assert rule.fact in set(facts())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_what_hides_it_exists(rule: Rule) -> None:
    codes = known_codes()
    for pattern in rule.hidden_by:
        assert any(code.startswith(pattern[:-1]) if pattern.endswith("*") else code == pattern for code in codes), (
            pattern
        )
    assert rule.id not in rule.hidden_by


def test_errors_lead_to_entries_and_are_errors_of_nvml() -> None:
    assert {*BOOK.errors.values(), *BOOK.driver_errors.values()} <= BOOK.rules.keys()
    for name in (*BOOK.errors, *BOOK.driver_errors, *BOOK.absent):
        assert hasattr(pynvml, name), name
    assert not BOOK.absent & {*BOOK.errors, *BOOK.driver_errors}


def test_what_cannot_be_looked_at_is_unknown_and_never_well() -> None:
    unknown = {rule.id for rule in RULES if rule.severity is Severity.UNKNOWN}

    assert unknown == {
        "gpu_probe_failed",
        "gpu_counters_unread",
        "gpu_reading_old",
        "gpu_unreadable",
        "gpu_version_untold",
    }
