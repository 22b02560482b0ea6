from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from kaalia.contracts.offer import Listing
from kaalia.marketplace import terms
from kaalia.wire.error import ApiError
from tests.support.clock import START

CURRENT = Listing(
    price_gpu_per_hour=Decimal("0.4"),
    price_disk_per_gb_month=Decimal("0.2"),
    price_min_bid_per_hour=Decimal("0.1"),
    min_gpu=2,
    end_at=START + timedelta(days=10),
)


def test_reads_what_the_client_sends() -> None:
    body = {
        "machine": 77,
        "price_gpu": 0.4,
        "price_disk": 0.1,
        "price_inetu": 0.01,
        "price_inetd": 0.02,
        "price_min_bid": 0.2,
        "min_chunk": 1,
        "end_date": START.timestamp() + 3600,
        "credit_discount_max": 0.3,
        "duration": None,
        "vol_size": 100,
        "vol_price": 0.05,
    }

    assert terms.read(body, None, 8, START) == Listing(
        price_gpu_per_hour=Decimal("0.4"),
        price_disk_per_gb_month=Decimal("0.1"),
        price_inet_up_per_gb=Decimal("0.01"),
        price_inet_down_per_gb=Decimal("0.02"),
        price_min_bid_per_hour=Decimal("0.2"),
        min_gpu=1,
        end_at=START + timedelta(hours=1),
        credit_discount_max=Decimal("0.3"),
    )


def test_null_keeps_what_was_and_has_defaults() -> None:
    nothing = dict.fromkeys(("price_gpu", "price_disk", "min_chunk", "end_date", "duration", "price_min_bid"))

    assert terms.read(nothing, CURRENT, 8, START) == CURRENT
    fresh = terms.read({**nothing, "price_gpu": 1}, None, 8, START)
    assert fresh.price_disk_per_gb_month == Decimal("0.10")
    assert fresh.credit_discount_max == Decimal("0.4")
    assert fresh.end_at is None


def test_a_duration_replaces_an_end_date() -> None:
    listing = terms.read({"duration": "3 months"}, CURRENT, 8, START)

    assert (listing.end_at, listing.rolling_duration_s) == (None, 90 * 86400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price_gpu", "cheap"),
        ("price_gpu", -1),
        ("price_gpu", float("nan")),
        ("price_gpu", 1e9),
        ("price_gpu", True),
        ("price_gpu", [1]),
        ("price_disk", -0.1),
        ("price_inetu", "x"),
        ("credit_discount_max", 1.5),
        ("min_chunk", 0),
        ("min_chunk", 1.5),
        ("min_chunk", 3),
        ("min_chunk", 16),
        ("end_date", 1.0),
        ("end_date", "soon"),
        ("end_date", 1e300),
        ("duration", "soon"),
        ("duration", -5),
        ("duration", "1000 years"),
        ("duration", "9" * 400),
        ("duration", {}),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        terms.read({"price_gpu": 0.4, field: value}, None, 8, START)

    assert (caught.value.status, caught.value.code) == (400, "invalid_args")
    assert field in caught.value.problem.message
    assert caught.value.problem.remedy


def test_the_first_listing_needs_a_price() -> None:
    with pytest.raises(ApiError, match="price_gpu"):
        terms.read({}, None, 8, START)


def test_end_date_and_duration_exclude_each_other() -> None:
    with pytest.raises(ApiError, match="duration"):
        terms.read({"price_gpu": 1, "end_date": START.timestamp() + 9, "duration": "1 day"}, None, 8, START)


def test_a_price_is_taken_as_it_was_typed() -> None:
    assert terms.money("price", 0.1) == Decimal("0.1")
