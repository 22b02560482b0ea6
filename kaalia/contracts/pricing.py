"""What a rental costs by the hour. Decimal all the way: rounding is for whoever prints."""

from dataclasses import dataclass
from decimal import Decimal

from kaalia.contracts.offer import Listing
from kaalia.units import HOURS_PER_MONTH


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per hour, under the names of the public API."""

    dph_base: Decimal
    """The GPUs alone."""
    storage_total_cost: Decimal
    """The disk alone; also paid while stopped."""
    dph_total: Decimal


def price(listing: Listing, num_gpus: int, disk_gb: Decimal) -> Price:
    """The price of `num_gpus` GPUs with `disk_gb` GB of disk. A machine without GPUs costs as much as one GPU."""
    base = listing.price_gpu_per_hour * max(num_gpus, 1)
    storage = disk_gb * listing.price_disk_per_gb_month / HOURS_PER_MONTH
    return Price(base, storage, base + storage)
