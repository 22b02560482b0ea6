from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.offer import Listing, check_listing, sizes, slice_count
from kaalia.errors import ContractError

LISTING = Listing(price_gpu_per_hour=Decimal("0.4"))
END = datetime(2026, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("num_gpus", "min_gpu", "expected"),
    [
        (8, 1, (1, 2, 4, 8)),
        (8, 2, (2, 4, 8)),
        (8, 8, (8,)),
        (6, 1, (1, 2, 4, 6)),
        (6, 4, (4, 6)),
        (1, 1, (1,)),
        (1, 4, (1,)),
        (0, 1, (0,)),
        (10, 4, (4, 8, 10)),
    ],
)
def test_sizes(num_gpus: int, min_gpu: int, expected: tuple[int, ...]) -> None:
    assert sizes(num_gpus, min_gpu) == expected


@given(st.integers(0, 64), st.integers(0, 6).map(lambda power: 2**power))
def test_sizes_grow_and_end_with_the_whole_machine(num_gpus: int, min_gpu: int) -> None:
    result = sizes(num_gpus, min_gpu)

    assert list(result) == sorted(set(result))
    assert result[-1] == num_gpus
    assert all(size % min_gpu == 0 and (size // min_gpu).bit_count() == 1 for size in result[:-1])


@given(st.integers(1, 64), st.integers(0, 64))
def test_slices_fit_the_free_gpus_and_waste_less_than_one(size: int, free_gpus: int) -> None:
    count = slice_count(size, free_gpus)

    assert count * size <= free_gpus < (count + 1) * size


def test_slices_without_gpus() -> None:
    assert slice_count(0, 0) == 1
    assert slice_count(2, -1) == 0


@pytest.mark.parametrize(
    "listing",
    [
        LISTING,
        replace(LISTING, price_gpu_per_hour=Decimal(0), min_gpu=8, end_at=END),
        replace(LISTING, rolling_duration_s=864000.0, price_min_bid_per_hour=Decimal("0.1")),
        replace(LISTING, credit_discount_max=Decimal(1)),
    ],
)
def test_good_listings(listing: Listing) -> None:
    check_listing(listing)
    check_listing(listing, num_gpus=8)


@pytest.mark.parametrize(
    ("listing", "code"),
    [
        (replace(LISTING, price_gpu_per_hour=Decimal("-0.01")), "price_invalid"),
        (replace(LISTING, price_gpu_per_hour=Decimal("NaN")), "price_invalid"),
        (replace(LISTING, price_disk_per_gb_month=Decimal("Infinity")), "price_invalid"),
        (replace(LISTING, price_inet_up_per_gb=Decimal(-1)), "price_invalid"),
        (replace(LISTING, price_inet_down_per_gb=Decimal(-1)), "price_invalid"),
        (replace(LISTING, price_min_bid_per_hour=Decimal(-1)), "price_invalid"),
        (replace(LISTING, credit_discount_max=Decimal("1.1")), "discount_invalid"),
        (replace(LISTING, credit_discount_max=Decimal("-0.1")), "discount_invalid"),
        (replace(LISTING, credit_discount_max=Decimal("NaN")), "discount_invalid"),
        (replace(LISTING, min_gpu=3), "min_gpu_invalid"),
        (replace(LISTING, min_gpu=0), "min_gpu_invalid"),
        (replace(LISTING, min_gpu=-2), "min_gpu_invalid"),
        (replace(LISTING, end_at=END, rolling_duration_s=1.0), "end_conflict"),
        (replace(LISTING, rolling_duration_s=0.0), "duration_invalid"),
        (replace(LISTING, rolling_duration_s=float("nan")), "duration_invalid"),
        (replace(LISTING, rolling_duration_s=float("inf")), "duration_invalid"),
    ],
)
def test_bad_listings_are_refused(listing: Listing, code: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_listing(listing)

    assert caught.value.code == code
    assert caught.value.problem.message.startswith("cannot list with ")
    assert caught.value.problem.remedy


@pytest.mark.parametrize(("min_gpu", "num_gpus", "fits"), [(4, 2, False), (2, 2, True), (1, 0, True), (2, 0, False)])
def test_min_gpu_is_held_against_the_machine(min_gpu: int, num_gpus: int, fits: bool) -> None:
    listing = replace(LISTING, min_gpu=min_gpu)

    if fits:
        check_listing(listing, num_gpus)
    else:
        with pytest.raises(ContractError, match=f"the machine has {num_gpus} GPUs"):
            check_listing(listing, num_gpus)
