"""A pending price increase in the public API's spelling: costs are per second, what stays as it is has no new cost."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from kaalia.contracts.increase import Prices
from kaalia.units import HOURS_PER_MONTH

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class PendingIncrease:
    """`contract_end_at`: from then on the new prices would hold; `offer_end_at`: the new end. None: no end."""

    increase_id: int
    contract_id: int
    host_id: int
    old: Prices
    new: Prices
    contract_end_at: datetime | None
    offer_end_at: datetime | None
    created_at: datetime


def encode(row: PendingIncrease) -> dict[str, Any]:
    """GPU: $ a GPU and second; disk: $ a GB and second, a month of 730 hours; traffic: $/GB; there is no fee."""
    old, new = _costs(row.old), _costs(row.new)
    return {
        "pending_price_increase_id": row.increase_id,
        "contract_id": row.contract_id,
        "host_id": row.host_id,
        **{f"old_{name}": float(cost) for name, cost in old.items()},
        **{f"new_{name}": None if cost == old[name] else float(cost) for name, cost in new.items()},
        "old_platform_fee": 0.0,
        "new_platform_fee": None,
        "contract_end_date": _epoch(row.contract_end_at),
        "ask_end_date": _epoch(row.offer_end_at),
        "created_at": row.created_at.timestamp(),
    }


def _costs(prices: Prices) -> dict[str, Decimal]:
    return {
        "gpu_costpersec": prices.gpu_per_hour / SECONDS_PER_HOUR,
        "disk_ram_costpersec": prices.disk_per_gb_month / HOURS_PER_MONTH / SECONDS_PER_HOUR,
        "bwu_cost": prices.inet_up_per_gb,
        "bwd_cost": prices.inet_down_per_gb,
    }


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
