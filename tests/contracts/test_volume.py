"""The split of one disk between volumes and instances, and what makes a volume's size and name."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.volume import (
    Volume,
    VolumeDesired,
    check_mount,
    check_name,
    check_size,
    default_size_gb,
    offer_space,
)
from kaalia.errors import ContractError
from kaalia.units import GB
from tests.support.clock import START

sizes = st.integers(0, 10**15)


@given(listed=sizes, rented=sizes, free=sizes)
def test_an_offer_never_promises_more_than_is_listed_or_free(listed: int, rented: int, free: int) -> None:
    space = offer_space(listed, rented, free)

    assert 0 <= space <= min(listed, free)
    assert space == 0 or space + rented <= listed
    assert space == max(0, min(listed - rented, free)), "and not less than it can"


@pytest.mark.parametrize(
    ("rented", "stored", "left"), [(0, 0, 500), (200, 0, 300), (0, 800, 200), (0, 400, 500), (500, 0, 0)]
)
def test_the_documented_example(rented: int, stored: int, left: int) -> None:
    assert offer_space(500 * GB, rented * GB, (1000 - rented - stored) * GB) == left * GB


@pytest.mark.parametrize("size", ["0.99", "0", "-1", "10.001", "NaN", "Infinity"])
def test_sizes_that_the_offer_does_not_have_are_refused(size: str) -> None:
    with pytest.raises(ContractError, match="cannot make a volume of size=") as refused:
        check_size(Decimal(size), 10 * GB)

    assert refused.value.code == "volume_size_invalid"
    assert "1 to 10 GB" in refused.value.problem.remedy


def test_sizes_within_the_offer_pass() -> None:
    check_size(Decimal(1), 10 * GB)
    check_size(Decimal(10), 10 * GB)


def test_names() -> None:
    assert (check_name(None), check_name("  "), check_name(" lab ")) == (None, None, "lab")
    assert check_name("x" * 64) == "x" * 64
    for name in ("x" * 65, "a\nb", "a b", "a-b", "V.5", "labö"):
        with pytest.raises(ContractError) as refused:
            check_name(name)
        assert refused.value.code == "volume_name_invalid"


def test_half_of_the_free_disk_in_whole_gb() -> None:
    assert (default_size_gb(1001 * GB), default_size_gb(GB), default_size_gb(0)) == (500, 0, 0)


def test_only_a_contract_of_before_its_end_mounts_a_volume() -> None:
    volume = Volume(5, "k" * 32, GB, VolumeDesired.PRESENT, end_at=START)
    check_mount(volume, START - timedelta(seconds=1))
    check_mount(Volume(5, "k" * 32, GB, VolumeDesired.PRESENT), START)

    with pytest.raises(ContractError, match="cannot mount volume 5: its contract ended at") as refused:
        check_mount(volume, START)

    assert refused.value.code == "volume_expired"
    assert refused.value.problem.remedy
