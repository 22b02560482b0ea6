"""The documented example, to the dollar, and what holds for every deposit."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import reserved

MOST = Decimal("0.5")
HOURS = 24


@pytest.mark.parametrize(("days", "refund"), [(0, 576), (15, 216), (30, 0), (60, 0)])
def test_the_documented_refunds(days: int, refund: int) -> None:
    one = reserved.reserve(Decimal(576), Decimal(1), MOST)

    assert round(one.months, 3) == 1
    assert round(one.discount_rate, 3) == Decimal("0.2")
    assert round(reserved.refund(one, Decimal(days * HOURS)), 2) == refund


def test_three_months_give_the_documented_discount() -> None:
    one = reserved.reserve(Decimal(3 * 720) * Decimal("0.7"), Decimal(1), MOST)

    assert (round(one.months, 3), round(one.discount_rate, 3)) == (Decimal(3), Decimal("0.3"))


def test_the_owner_limits_the_discount() -> None:
    assert reserved.reserve(Decimal(100_000), Decimal(1), Decimal("0.1")).discount_rate == Decimal("0.1")


@given(st.decimals("0.01", 50_000, places=2), st.decimals("0.01", 50, places=2), st.decimals(0, "0.9", places=2))
def test_a_deposit_pays_exactly_its_months(deposit: Decimal, price: Decimal, most: Decimal) -> None:
    one = reserved.reserve(deposit, price, most)

    assert 0 <= one.discount_rate <= min(most, MOST)
    assert abs(one.months * 720 * one.usd_per_hour - deposit) <= deposit / 1000 + price / 100
    assert reserved.refund(one, Decimal(0)) == deposit
    assert reserved.refund(one, one.months * 720 * 2) == 0


def test_another_price_keeps_discount_and_what_is_left() -> None:
    """Half of the 576 $ are used: what is left lasts half as long at twice the price."""
    one = reserved.reserve(Decimal(576), Decimal(1), MOST)
    after = reserved.repriced(one, Decimal(15 * HOURS), 2 * one.usd_per_hour)

    assert round(after.deposit, 2) == 288
    assert (after.discount_rate, after.usd_per_hour) == (one.discount_rate, 2 * one.usd_per_hour)
    assert round(after.months, 3) == Decimal("0.25")
    assert reserved.repriced(one, Decimal(99_999), one.usd_per_hour).deposit == 0
    assert round(reserved.refund(after, Decimal(0)), 2) == 216
