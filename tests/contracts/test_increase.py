from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kaalia.contracts import increase, offer, reserved
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.increase import Agreement
from kaalia.contracts.offer import Listing
from tests.support.builders import build_contract

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
END = NOW + timedelta(days=10)
TERMS = Listing(Decimal("0.4"), price_min_bid_per_hour=Decimal("0.1"), end_at=END)


def agreed(kind: ContractKind = ContractKind.ON_DEMAND, usd_per_hour: str = "0.8") -> Agreement:
    """Two GPUs at `TERMS`."""
    made = build_contract(kind=kind)
    made = replace(made, spec=replace(made.spec, gpu_count=2))
    return Agreement(replace(made, price_usd_per_hour=Decimal(usd_per_hour), end_at=END), TERMS)


@pytest.mark.parametrize(
    "changes",
    [
        {"price_gpu_per_hour": Decimal("0.41")},
        {"price_disk_per_gb_month": Decimal("0.11")},
        {"price_inet_up_per_gb": Decimal("0.01")},
        {"price_inet_down_per_gb": Decimal("0.01")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_any_higher_price_is_dearer(changes: dict[str, Any]) -> None:
    assert increase.is_dearer(agreed(), replace(TERMS, **changes))
    assert not increase.is_dearer(agreed(), TERMS)


def test_one_lower_price_does_not_make_up_for_a_higher_one() -> None:
    listing = replace(TERMS, price_gpu_per_hour=Decimal("0.1"), price_disk_per_gb_month=Decimal("0.2"))
    assert increase.is_dearer(agreed(), listing)
    after = increase.accepted(agreed(), listing)
    assert (after.contract.price_usd_per_hour, after.terms) == (Decimal("0.2"), listing)


def test_a_bid_is_touched_by_a_floor_above_it_only() -> None:
    bid = agreed(ContractKind.INTERRUPTIBLE, "0.5")
    assert not increase.is_dearer(bid, replace(TERMS, price_gpu_per_hour=Decimal(9)))
    assert not increase.is_dearer(bid, replace(TERMS, price_min_bid_per_hour=Decimal("0.25")))
    raised = replace(TERMS, price_min_bid_per_hour=Decimal("0.26"))
    assert increase.is_dearer(bid, raised)
    assert increase.accepted(bid, raised).contract.price_usd_per_hour == Decimal("0.52")


def test_a_reserved_contract_keeps_its_discount() -> None:
    reserved = agreed(ContractKind.RESERVED, "0.6")
    assert not increase.is_dearer(reserved, TERMS)
    raised = replace(TERMS, price_gpu_per_hour=Decimal("0.8"))
    assert increase.is_dearer(reserved, raised)
    assert increase.accepted(reserved, raised).contract.price_usd_per_hour == Decimal("1.2")


@given(
    price=st.decimals("0.001", 100, places=3),
    gpu_count=st.integers(1, 16),
    amount=st.decimals(1, 100_000, places=2),
    most=st.decimals(0, "0.5", places=3),
)
@example(Decimal("0.4"), 2, Decimal(3092), Decimal("0.5"))
def test_no_rounding_makes_a_reserved_contract_dearer_at_the_same_price(
    price: Decimal, gpu_count: int, amount: Decimal, most: Decimal
) -> None:
    listing = replace(TERMS, price_gpu_per_hour=price)
    bought = reserved.reserve(amount, price * gpu_count, most)
    contract = agreed(ContractKind.RESERVED, str(bought.usd_per_hour)).contract
    contract = replace(contract, spec=replace(contract.spec, gpu_count=gpu_count))
    one = Agreement(contract, listing)
    assert increase.asked(one, listing) == increase.paid(one)
    assert not increase.is_dearer(one, listing)
    assert increase.is_dearer(one, replace(listing, price_gpu_per_hour=price + Decimal("0.001")))
    cheaper = increase.asked(one, replace(listing, price_gpu_per_hour=price - Decimal("0.001")))
    assert cheaper.gpu_per_hour < increase.paid(one).gpu_per_hour


def test_new_prices_begin_at_the_end_and_never_in_the_past() -> None:
    contract = agreed().contract
    assert increase.starts_at(contract, NOW) == END
    assert increase.starts_at(contract, END + timedelta(days=1)) == END + timedelta(days=1)
    assert increase.starts_at(replace(contract, end_at=None), NOW) is None


def test_the_end_of_a_rolling_listing_moves_once_a_day() -> None:
    listing = replace(TERMS, end_at=None, rolling_duration_s=864000.0, rolled_at=NOW)
    tomorrow = NOW + offer.ROLL_EVERY
    assert offer.end_of_offer(listing, tomorrow) == END
    assert offer.rolled(listing, tomorrow - timedelta(seconds=1)) is None
    assert offer.rolled(TERMS, tomorrow) is None
    moved = offer.rolled(listing, tomorrow)
    assert moved is not None
    assert offer.end_of_offer(moved, tomorrow) == END + timedelta(days=1)
    assert offer.rolled(replace(listing, rolled_at=None), NOW) == listing
