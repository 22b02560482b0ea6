"""Who is over its size, how much room is kept, and which image goes first."""

import doctest
from datetime import timedelta

import pytest

from kaalia.contracts import disk
from kaalia.contracts.disk import HeldImage, Overrun, evictable, limit_bytes, low_water_bytes
from kaalia.units import GB
from tests.support.clock import START


def test_the_examples_hold() -> None:
    assert doctest.testmod(disk).failed == 0


@pytest.mark.parametrize(("size", "is_exceeded"), [(10.1, False), (11, False), (11.001, True), (50, True)])
def test_a_margin_lies_between_a_warning_and_a_stop(size: float, is_exceeded: bool) -> None:
    over = Overrun(7, 1, round(size * GB), 10 * GB)

    assert over.is_exceeded is is_exceeded
    assert "9.3 GiB rented" in over.warning
    assert over.problem.code == "disk_limit_exceeded"
    assert over.problem.message.startswith("cannot run C.7")
    assert str(limit_bytes(10 * GB)) in over.problem.evidence


def test_a_size_with_holes_in_it_is_never_past_the_margin() -> None:
    over = Overrun(7, 1, 500 * GB, 10 * GB, counts_holes=True)

    assert not over.is_exceeded
    assert "holes counted, come to 465.7 GiB of the 9.3 GiB rented" in over.warning


@pytest.mark.parametrize("promised_gb", [1, 8, 10, 100, 5000])
def test_the_margin_is_a_tenth_and_never_nothing(promised_gb: int) -> None:
    margin = limit_bytes(promised_gb * GB) - promised_gb * GB

    assert margin == max(GB, promised_gb * GB // 10)


def test_the_owners_word_on_the_low_water_mark_counts() -> None:
    assert low_water_bytes(100 * GB, 3 * GB) == 3 * GB
    assert low_water_bytes(100 * GB, 0) == 0


def image(name: str, used_days_ago: int | None = 1, **changes: object) -> HeldImage:
    used_at = None if used_days_ago is None else START - timedelta(days=used_days_ago)
    values = {"tags": (name,), "size_bytes": GB, "in_use": False, "reference": name, "used_at": used_at, **changes}
    return HeldImage(f"sha256:{name}", **values)  # type: ignore[arg-type]


def test_the_longest_unused_image_goes_first() -> None:
    found = evictable([image("a", 1), image("b", 9), image("c", 3)], ())

    assert [one.reference for one in found] == ["b", "c", "a"]


@pytest.mark.parametrize(
    "kept",
    [
        image("a", reference=None),
        image("a", in_use=True),
        image("a", tags=("a", "the-owners-name")),
        image("a", tags=("the-owners-name",)),
    ],
    ids=["not pulled by kaalia", "in use", "named by the owner too", "renamed by the owner"],
)
def test_what_may_be_anybody_elses_stays(kept: HeldImage) -> None:
    assert evictable([kept], ()) == ()


def test_what_a_contract_may_start_from_stays_and_what_lost_its_tag_may_go() -> None:
    assert evictable([image("a")], {"a"}) == ()
    assert evictable([image("a")], {"sha256:a"}) == ()
    assert evictable([image("a", tags=())], {"b"}) == (image("a", tags=()),)
