"""Offers in the public API's spelling: one row a slice, strict in its types (a text in a number column breaks clients).

What is not known is null; an unknown `dlperf` is left out, since clients sort by it without a thought.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from kaalia.contracts import pricing
from kaalia.contracts.offer import Listing, bid_floor
from kaalia.units import GB

ENDLESS_S = 10 * 365 * 86400.0
"""`duration` of a listing that has no end: ten years, so that filters for long rentals find it."""
TB_IN_GB = 1024
"""As the public client converts prices per GB for display."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One slice of a listed machine.

    `facts`: of the whole machine, as `wire.facts.encode` spells them; `disk_bytes`: the share of the unallocated disk;
    `bid_to_win`: US dollars per GPU and hour, None: the owner's floor.
    """

    ask_id: int
    machine_id: int
    host_id: int
    num_gpus: int
    machine_gpus: int
    facts: Mapping[str, Any]
    disk_bytes: int
    listing: Listing
    rentable: bool
    rented: bool
    reliability: float
    verification: str
    start_at: datetime
    end_at: datetime | None
    bid_to_win: Decimal | None = None
    trouble: tuple[str, ...] = ()
    """Codes of what costs the machine its verification."""
    shut: str | None = None
    """Code of what keeps all of the machine from being rented anew."""
    no_vms: bool = False
    """It could start no virtual machines."""


TROUBLED = 8
"""`vericode`, as the public marketplace gives it: the machine has a message of something that is wrong. 0: none."""


def encode(offer: Offer, now: datetime, allocated_storage_gb: Decimal, kind: str = "on-demand") -> dict[str, Any]:
    """The row as searched and sent. `kind`: on-demand, bid or reserved. Sizes: MB of RAM, GB of disk; money: $/h."""
    price = pricing.price(_terms(offer, kind), offer.num_gpus, allocated_storage_gb)
    discount = offer.listing.credit_discount_max if kind == "reserved" else Decimal(0)
    costs = _costs(price, discount)
    fraction = offer.num_gpus / offer.machine_gpus if offer.machine_gpus else 1.0
    memory_mb = offer.facts["gpu_ram"] * offer.num_gpus
    cores = offer.facts["cpu_cores"] * fraction
    return {
        **offer.facts,
        **_identity(offer),
        **_time(offer, now),
        **_prices(offer, price, discount),
        "search": costs,
        "instance": dict(costs),
        **_performance(offer, price.dph_total),
        "gpu_frac": fraction,
        "gpu_total_ram": memory_mb,
        "cpu_cores_effective": cores,
        "cpu_ram": math.floor(offer.facts["cpu_ram"] * fraction),
        "disk_space": round(offer.disk_bytes / GB, 3),
        "is_bid": kind == "bid",
        "reliability": offer.reliability,
        "reliability2": offer.reliability,
        "score": score(offer.num_gpus, memory_mb, cores, price.dph_total),
    }


def score(num_gpus: int, gpu_memory_mb: float, cpu_cores: float, dph_total: Decimal) -> float:
    """What one gets for a dollar: GiB of GPU memory (CPU cores without a GPU) per $/h, and 10 % more per doubling.

    Stands in until benchmarks exist. The bonus lets the whole machine precede its slices, which cost the same per GPU.
    """
    amount = gpu_memory_mb / 1024 if num_gpus else cpu_cores
    return amount / max(float(dph_total), 0.001) * (1 + 0.1 * math.log2(max(num_gpus, 1)))


def _performance(offer: Offer, dph_total: Decimal) -> dict[str, Any]:
    """The slice's share of what grows with GPUs, and that per dollar and hour."""
    row: dict[str, Any] = {}
    facts, fraction = offer.facts, offer.num_gpus / max(offer.facts["num_gpus"], 1)
    for name, per_dollar in (("total_flops", "flops_per_dphtotal"), ("dlperf", "dlperf_per_dphtotal")):
        whole = facts.get(name)
        share = None if whole is None else round(whole * fraction, 1)
        row |= {name: share, per_dollar: None if share is None else round(share / max(float(dph_total), 0.001), 3)}
    return row


def _terms(offer: Offer, kind: str) -> Listing:
    return replace(offer.listing, price_gpu_per_hour=_least_bid(offer)) if kind == "bid" else offer.listing


def _least_bid(offer: Offer) -> Decimal:
    return bid_floor(offer.listing) if offer.bid_to_win is None else offer.bid_to_win


def _identity(offer: Offer) -> dict[str, Any]:
    return {
        "id": offer.ask_id,
        "ask_contract_id": offer.ask_id,
        "machine_id": offer.machine_id,
        "host_id": offer.host_id,
        "num_gpus": offer.num_gpus,
        "resource_type": "gpu" if offer.num_gpus else "cpu",
        "rentable": offer.rentable,
        "rented": offer.rented,
        "verification": offer.verification,
        "verified": offer.verification == "verified",
        "external": False,
        "hosting_type": 0,
        "datacenter": False,
        "vms_enabled": False,  # nobody rents virtual machines here
        "is_vm_deverified": offer.no_vms,
        "hostname": None,
        "vericode": TROUBLED if offer.trouble else 0,
        "error_description": ", ".join(dict.fromkeys(filter(None, (offer.shut, *offer.trouble)))) or None,
        **dict.fromkeys(_UNKNOWN),
    }


_UNKNOWN = (
    "bundle_id",
    "bundled_results",
    "cluster_id",
    "logo",
    "webpage",
    "reliability_mult",
    "expected_reliability",
    "avail_vol_ask_id",
    "avail_vol_dph",
    "avail_vol_size",
    "nw_disk_min_bw",
    "nw_disk_max_bw",
    "nw_disk_avg_bw",
    "platform_fee",
    "vram_costperhour",
)
"""Named by the API, not known to this marketplace. A filter on one of them finds nothing rather than everything."""


def _time(offer: Offer, now: datetime) -> dict[str, Any]:
    end_at = offer.end_at
    return {
        "start_date": offer.start_at.timestamp(),
        "end_date": None if end_at is None else end_at.timestamp(),
        "duration": ENDLESS_S if end_at is None else max(0.0, (end_at - now).total_seconds()),
    }


def _prices(offer: Offer, price: pricing.Price, discount: Decimal) -> dict[str, Any]:
    listing = offer.listing
    discounted = price.dph_total - price.dph_base * discount
    return {
        "dph_base": float(price.dph_base),
        "dph_total": float(price.dph_total),
        "min_bid": float(_least_bid(offer) * max(offer.num_gpus, 1)),
        "storage_cost": float(listing.price_disk_per_gb_month),
        "storage_total_cost": float(price.storage_total_cost),
        "inet_up_cost": float(listing.price_inet_up_per_gb),
        "inet_down_cost": float(listing.price_inet_down_per_gb),
        "internet_up_cost_per_tb": float(listing.price_inet_up_per_gb * TB_IN_GB),
        "internet_down_cost_per_tb": float(listing.price_inet_down_per_gb * TB_IN_GB),
        "credit_discount_max": float(listing.credit_discount_max),
        "discount_rate": float(discount),
        "discounted_dph_total": float(discounted),
    }


def _costs(price: pricing.Price, discount: Decimal) -> dict[str, float]:
    saved = price.dph_base * discount
    return {
        "gpuCostPerHour": float(price.dph_base),
        "diskHour": float(price.storage_total_cost),
        "totalHour": float(price.dph_total),
        "discountTotalHour": float(saved),
        "discountedTotalPerHour": float(price.dph_total - saved),
    }
