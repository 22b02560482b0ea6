"""One catalogue: whatever is told as a condition can be explained, by its id or as people write it."""

import pytest

from kaalia.contracts import canary
from kaalia.health import book
from kaalia.health.kernel_lines import catalogue
from kaalia.model.canary import CanaryRun, CanaryState, Cause, Step, StepResult, Versions
from kaalia.model.health import Severity
from kaalia.model.selftest import Outcome
from scripts import health_tables
from tests.support.clock import START

FAILED = tuple(StepResult(step, Outcome.FAILED, "no") for step in Step)


def test_every_condition_that_the_code_tells_is_explained() -> None:
    found = dict(health_tables.told())

    assert {"disk_low", "walls_missing", "ports_shifted", "speed_failed", "kernel_log_unreadable"} <= found.keys()
    assert health_tables.unexplained() == []


def test_every_fault_of_the_kernel_is_explained() -> None:
    told = {line.id for line in catalogue().lines} | {f"gpu_xid_{number}" for number in catalogue().xids}

    assert told <= book.entries().keys()


@pytest.mark.parametrize("entry", book.entries().values(), ids=lambda entry: entry.id)
def test_an_entry_says_all_that_a_person_needs(entry: book.Entry) -> None:
    assert entry.says
    assert entry.remedy
    assert entry.source
    if entry.severity:
        assert Severity(entry.severity)
        assert entry.clears
    assert not entry.says.endswith(".")


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("disk_low", "disk_low"),
        (" Disk-Low ", "disk_low"),
        ("xid_79", "gpu_xid_79"),
        ("Xid 79", "gpu_xid_79"),
        ("gpu_xid_79", "gpu_xid_79"),
        ("79", "gpu_xid_79"),
        ("xid 31337", "gpu_xid_31337"),
    ],
)
def test_it_is_found_as_people_write_it(word: str, wanted: str) -> None:
    entry = book.find(word)

    assert entry is not None
    assert entry.id == wanted


@pytest.mark.parametrize(
    ("word", "nearest"), [("disklow", "disk_low"), ("raid", "raid_degraded"), ("ports_shift", "ports_shifted")]
)
def test_what_is_none_is_answered_by_its_neighbours(word: str, nearest: str) -> None:
    assert book.find(word) is None
    assert nearest in book.near(word)
    assert book.near("qqqqqqqqqq") == []


def test_what_keeps_new_rentals_out_is_said_as_it_is_done() -> None:
    """By the conditions that the code makes: those of the machine say so themselves, those of a GPU by their part."""
    since = {"gpu_lost", "gpu_xid_79", "gpu_fallen_off_bus", "gpu_driver_hung", "mount_absent", "canary_launch_failed"}
    quiet = {"gpu_hot", "gpu_driver_missing", "drive_silent", "live_restore_off", "gpu_xid_31", "disk_errors"}

    assert [code for code in sorted(since) if not book.entries()[code].keeps_out] == []
    assert [code for code in sorted(quiet) if book.entries()[code].keeps_out] == []
    last = CanaryRun(Cause.BOOT, START, START, "b", Versions("1", None, None), FAILED)
    for state, need in ((CanaryState(last=last, failures=2), None), (CanaryState(), Cause.BOOT)):
        for one in canary.conditions(state, need):
            assert book.entries()[one.problem.code].keeps_out
    assert book.entries()["canary_gpu_failed"].keeps_out.startswith("the GPU ")
    assert book.entries()["canary_launch_failed"].keeps_out.startswith("nothing ")
