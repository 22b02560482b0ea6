"""What a listing asks of a contract that runs: its agreement is extended at the same price or a lower one; a dearer
one is put to the renter, and holds after the contract's present end if the renter accepts.

Interruptible rentals pay their own bid: only a floor above the bid makes them dearer. Reserved ones keep their
discount.
"""

from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal

from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.offer import Listing, bid_floor


@dataclass(frozen=True, slots=True)
class Agreement:
    """A contract and the listing whose prices it goes by."""

    contract: Contract
    terms: Listing


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars: for one GPU and hour (a machine without GPUs counts as one), a GB of disk and month, a GB sent."""

    gpu_per_hour: Decimal
    disk_per_gb_month: Decimal
    inet_up_per_gb: Decimal
    inet_down_per_gb: Decimal


def paid(agreed: Agreement) -> Prices:
    """What the renter pays by the agreement."""
    return _with(agreed.terms, agreed.contract.price_usd_per_hour / _units(agreed.contract))


def asked(agreed: Agreement, listing: Listing) -> Prices:
    """What the renter would pay by `listing`."""
    contract, units = agreed.contract, _units(agreed.contract)
    if contract.kind is ContractKind.INTERRUPTIBLE:
        return _with(listing, max(contract.price_usd_per_hour / units, bid_floor(listing)))
    if contract.kind is not ContractKind.RESERVED:
        return _with(listing, listing.price_gpu_per_hour)
    listed, before = listing.price_gpu_per_hour, agreed.terms.price_gpu_per_hour
    if listed == before:
        # Worked out from the discount it could come out dearer, by a rounding in the last digit.
        return paid(Agreement(contract, listing))
    return _with(listing, listed * contract.price_usd_per_hour / (before * units) if before else listed)


def is_dearer(agreed: Agreement, listing: Listing) -> bool:
    """Anything of it costs more than was agreed."""
    before, after = paid(agreed), asked(agreed, listing)
    return any(getattr(after, field.name) > getattr(before, field.name) for field in fields(Prices))


def same_prices(one: Listing, other: Listing) -> bool:
    """A renter who was asked about the one was asked about the other."""
    return _with(one, one.price_gpu_per_hour) == _with(other, other.price_gpu_per_hour) and (
        bid_floor(one) == bid_floor(other)
    )


def accepted(agreed: Agreement, listing: Listing) -> Agreement:
    """The agreement by the prices of `listing`. The time is another matter: see `starts_at`."""
    price = asked(agreed, listing).gpu_per_hour * _units(agreed.contract)
    return Agreement(replace(agreed.contract, price_usd_per_hour=price), listing)


def starts_at(contract: Contract, now: datetime) -> datetime | None:
    """When prices that are accepted now begin to hold: at the present end. None: the contract has no end."""
    return None if contract.end_at is None else max(contract.end_at, now)


def _with(listing: Listing, gpu_per_hour: Decimal) -> Prices:
    return Prices(
        gpu_per_hour,
        listing.price_disk_per_gb_month,
        listing.price_inet_up_per_gb,
        listing.price_inet_down_per_gb,
    )


def _units(contract: Contract) -> int:
    return max(contract.spec.gpu_count, 1)
