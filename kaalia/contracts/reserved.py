"""Reserved rentals: a deposit buys a discount on the GPUs' price, the more the longer it lasts.

The refund of an early end is what is left of the deposit, less the discount that was enjoyed so far. The GPUs' price
alone counts; the disk is paid as ever.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

HOURS_PER_MONTH = Decimal(720)
"""Of a reservation: 30 days, as in the public documents' own example."""
_CURVE = tuple(
    (Decimal(months), Decimal(rate)) for months, rate in ((0, "0"), (1, "0.2"), (3, "0.3"), (6, "0.4"), (12, "0.5"))
)
"""Months and the discount for them. 0.2 for one and 0.3 for three are what the public client's help names, a half is
the most that the public documents promise; straight lines between."""
_HALVINGS = 64
_MONTHS_UNIT = Decimal("1e-9")
"""A cent at 50 $/h still pays for some time."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """`months`: how long the deposit lasts at the discounted price. `discount_rate`: 0 to 1. Money in US dollars."""

    deposit: Decimal
    months: Decimal
    discount_rate: Decimal
    on_demand_usd_per_hour: Decimal
    enjoyed_before: Decimal = Decimal(0)
    """The discount of the reservation that this one goes on from; one that was used up has earned its own."""

    @property
    def usd_per_hour(self) -> Decimal:
        return self.on_demand_usd_per_hour * (1 - self.discount_rate)


def discount(months: Decimal, most: Decimal) -> Decimal:
    """The discount for paying so many months ahead, at most the owner's `most`."""
    for (low, low_rate), (high, high_rate) in pairwise(_CURVE):
        if months <= high:
            return min(most, low_rate + (high_rate - low_rate) * (months - low) / (high - low))
    return min(most, _CURVE[-1][1])


def reserve(deposit: Decimal, on_demand_usd_per_hour: Decimal, most: Decimal) -> Reservation:
    """What a deposit of US dollars buys. A price of 0 needs none: ValueError, as for a deposit that is not positive."""
    if deposit <= 0 or on_demand_usd_per_hour <= 0:
        raise ValueError(f"no reservation for {deposit} at {on_demand_usd_per_hour} $/h")
    monthly = on_demand_usd_per_hour * HOURS_PER_MONTH
    # The price of m months grows with m all along the curve, so halving finds the m that the deposit pays for.
    low, high = Decimal(0), deposit / monthly / (1 - min(most, _CURVE[-1][1]))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle * monthly * (1 - discount(middle, most)) > deposit:
            high = middle
        else:
            low = middle
    months = high.quantize(_MONTHS_UNIT)
    return Reservation(deposit, months, discount(months, most), on_demand_usd_per_hour)


def repriced(one: Reservation, used_hours: Decimal, usd_per_hour: Decimal) -> Reservation:
    """What is left of a reservation after so many hours, at another discounted price; the discount stays."""
    left = remaining(one, used_hours)
    monthly = usd_per_hour * HOURS_PER_MONTH
    months = (left / monthly).quantize(_MONTHS_UNIT) if monthly else one.months
    price = usd_per_hour / (1 - one.discount_rate)
    return Reservation(left, months, one.discount_rate, price, _carried(one, used_hours))


def topped_up(one: Reservation, used_hours: Decimal, added: Decimal, most: Decimal) -> Reservation:
    """A further payment: the discount is worked out anew from what is left and what is added."""
    made = reserve(remaining(one, used_hours) + added, one.on_demand_usd_per_hour, most)
    return replace(made, enjoyed_before=_carried(one, used_hours))


def remaining(one: Reservation, used_hours: Decimal) -> Decimal:
    """What is left of the deposit after so many hours of running."""
    return max(Decimal(0), one.deposit - used_hours * one.usd_per_hour)


def enjoyed(one: Reservation, used_hours: Decimal) -> Decimal:
    """The discount received so far."""
    covered = min(used_hours, one.deposit / one.usd_per_hour) if one.usd_per_hour else used_hours
    return one.enjoyed_before + covered * (one.on_demand_usd_per_hour - one.usd_per_hour)


def refund(one: Reservation, used_hours: Decimal) -> Decimal:
    """What an end now gives back."""
    return max(Decimal(0), remaining(one, used_hours) - enjoyed(one, used_hours))


def _carried(one: Reservation, used_hours: Decimal) -> Decimal:
    return enjoyed(one, used_hours) if remaining(one, used_hours) > 0 else Decimal(0)
