"""What an owner offers: the listing of a machine, and the rule that turns it into offers."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

DEFAULT_DISK_PRICE = Decimal("0.10")
"""US dollars per GB and month; the default that the public `list machine` help names."""
DEFAULT_CREDIT_DISCOUNT_MAX = Decimal("0.4")


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
