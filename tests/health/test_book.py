"""One catalogue: whatever is told as a condition can be explained, by its id or as people write it."""

import pytest

from kaalia.health import book
from kaalia.health.kernel_lines import catalogue
from kaalia.model.health import Severity
from scripts import health_tables


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
