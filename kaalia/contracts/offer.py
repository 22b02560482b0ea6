"""What an owner offers: the listing of a machine, and the rule that turns it into offers."""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from kaalia.errors import ContractError

DEFAULT_DISK_PRICE = Decimal("0.10")
"""US dollars per GB and month; the default that the public `list machine` help names."""
DEFAULT_CREDIT_DISCOUNT_MAX = Decimal("0.4")

_PRICES = (
    "price_gpu_per_hour",
    "price_disk_per_gb_month",
    "price_inet_up_per_gb",
    "price_inet_down_per_gb",
    "price_min_bid_per_hour",
)


@dataclass(frozen=True, slots=True)
class Listing:
    """The owner's terms for one machine. Prices in US dollars."""

    price_gpu_per_hour: Decimal
    price_disk_per_gb_month: Decimal = DEFAULT_DISK_PRICE
    price_inet_up_per_gb: Decimal = Decimal(0)
    price_inet_down_per_gb: Decimal = Decimal(0)
    price_min_bid_per_hour: Decimal | None = None
    min_gpu: int = 1
    end_at: datetime | None = None
    rolling_duration_s: float | None = None
    credit_discount_max: Decimal = DEFAULT_CREDIT_DISCOUNT_MAX
    rolled_at: datetime | None = None
    """When the rolling duration last set the end: the end is so much later."""


ROLL_EVERY = timedelta(days=1)
"""The public client's help: a duration moves the end date daily."""


def end_of_offer(listing: Listing, now: datetime) -> datetime | None:
    """When a contract made now would end. None: the listing has no end."""
    if listing.rolling_duration_s is None:
        return listing.end_at
    return (listing.rolled_at or now) + timedelta(seconds=listing.rolling_duration_s)


def rolled(listing: Listing, now: datetime) -> Listing | None:
    """The listing with its end moved to now + duration; None: that is not due, or its end does not roll."""
    if listing.rolling_duration_s is None:
        return None
    is_due = listing.rolled_at is None or now >= listing.rolled_at + ROLL_EVERY
    return replace(listing, rolled_at=now) if is_due else None


def is_later(end_at: datetime | None, than: datetime | None) -> bool:
    """Of two ends, None being no end."""
    return than is not None and (end_at is None or end_at > than)


def sizes(num_gpus: int, min_gpu: int, fit: int | None = None) -> tuple[int, ...]:
    """Offer sizes in GPUs: `min_gpu` × powers of two, and always all of the model. No GPUs: `(0,)`.

    `fit`: how many are well; all of those are a size too, unless they are fewer than the owner's least.

    >>> sizes(8, 2), sizes(6, 1), sizes(8, 1, fit=7)
    ((2, 4, 8), (1, 2, 4, 6), (1, 2, 4, 7, 8))
    """
    result = {num_gpus}
    size = max(min_gpu, 1)
    if fit is not None and size <= fit < num_gpus:
        result.add(fit)
    while size < num_gpus:
        result.add(size)
        size *= 2
    return tuple(sorted(result))


def slice_count(size: int, free_gpus: int) -> int:
    """How many offers of `size` fit into the free GPUs. An offer without GPUs is one: the whole machine."""
    return max(free_gpus, 0) // size if size > 0 else 1


def bid_floor(listing: Listing) -> Decimal:
    """The least bid per GPU and hour: what the owner set, else the full price."""
    return listing.price_gpu_per_hour if listing.price_min_bid_per_hour is None else listing.price_min_bid_per_hour


def frozen(listing: Listing, end_at: datetime | None) -> Listing:
    """The terms of a contract that ends at `end_at`: later changes of the listing do not reach them."""
    return replace(listing, end_at=end_at, rolling_duration_s=None, rolled_at=None)


def lowest(one: Listing, other: Listing) -> Listing:
    """The terms of the one, with what asks for less in the other: a price within either is above these floors."""
    return replace(
        one,
        price_gpu_per_hour=min(one.price_gpu_per_hour, other.price_gpu_per_hour),
        price_min_bid_per_hour=min(bid_floor(one), bid_floor(other)),
        credit_discount_max=max(one.credit_discount_max, other.credit_discount_max),
    )


def check_listing(listing: Listing, num_gpus: int | None = None) -> None:
    """Refuse terms that contradict themselves, or a machine of `num_gpus` GPUs when that is given.

    Raises ContractError price_invalid, discount_invalid, min_gpu_invalid, duration_invalid or end_conflict.
    """
    for name in _PRICES:
        price: Decimal | None = getattr(listing, name)
        if price is not None and not (price.is_finite() and price >= 0):
            remedy = "give a price of 0 or more US dollars"
            raise ContractError("price_invalid", f"cannot list with {name} {price}: it is no price", remedy=remedy)
    discount = listing.credit_discount_max
    if not (discount.is_finite() and 0 <= discount <= 1):
        message = f"cannot list with credit_discount_max {discount}: it is no fraction"
        raise ContractError("discount_invalid", message, remedy="give a number from 0 to 1, such as 0.4 for 40 %")
    _check_min_gpu(listing.min_gpu, num_gpus)
    _check_end(listing)


def _check_min_gpu(min_gpu: int, num_gpus: int | None) -> None:
    if min_gpu < 1 or min_gpu & (min_gpu - 1):
        message = f"cannot list with min_gpu {min_gpu}: it is no power of two"
        raise ContractError("min_gpu_invalid", message, remedy="use 1, 2, 4, 8 or 16")
    if num_gpus is not None and min_gpu > max(num_gpus, 1):
        message = f"cannot list with min_gpu {min_gpu}: the machine has {num_gpus} GPUs"
        raise ContractError("min_gpu_invalid", message, remedy=f"use a power of two up to {max(num_gpus, 1)}")


def _check_end(listing: Listing) -> None:
    duration_s = listing.rolling_duration_s
    if listing.end_at is not None and duration_s is not None:
        message = f"cannot list with both an end date ({listing.end_at:%Y-%m-%d}) and a duration ({duration_s:g} s)"
        raise ContractError("end_conflict", message, remedy="give one of them: a duration moves the end date daily")
    if duration_s is not None and not 0 < duration_s < math.inf:
        message = f"cannot list with a duration of {duration_s:g} s: it must be positive"
        raise ContractError("duration_invalid", message, remedy="give a duration such as '3 months' or '10 days'")
