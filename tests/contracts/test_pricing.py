from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.offer import Listing
from kaalia.contracts.pricing import Price, price

LISTING = Listing(price_gpu_per_hour=Decimal("0.4"), price_disk_per_gb_month=Decimal("0.10"))

money = st.decimals(0, 1000, places=4)
disks = st.decimals(0, 100_000, places=2)


def test_price_of_two_gpus_with_73_gb() -> None:
    assert price(LISTING, 2, Decimal(73)) == Price(Decimal("0.8"), Decimal("0.01"), Decimal("0.81"))


def test_a_machine_without_gpus_is_priced_as_one() -> None:
    assert price(LISTING, 0, Decimal(0)) == price(LISTING, 1, Decimal(0))


@given(money, money, st.integers(0, 64), disks, disks)
def test_price_is_the_sum_of_its_parts_and_grows(
    gpu: Decimal, disk: Decimal, gpus: int, size: Decimal, more: Decimal
) -> None:
    listing = Listing(price_gpu_per_hour=gpu, price_disk_per_gb_month=disk)

    cheap, dear = price(listing, gpus, size), price(listing, gpus + 1, size + more)

    assert cheap.dph_total == cheap.dph_base + cheap.storage_total_cost
    assert 0 <= cheap.dph_base <= dear.dph_base
    assert 0 <= cheap.storage_total_cost <= dear.storage_total_cost
