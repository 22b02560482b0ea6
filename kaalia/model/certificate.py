"""The certificate that a contract's Jupyter shows to browsers."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Certificate:
    """Signed by the marketplace's own authority. `chain`: PEM, without the root that renters have installed."""

    contract_id: int
    chain: str
    names: tuple[str, ...]
    """What it is for: host names and IP addresses."""
    begins_at: datetime
    ends_at: datetime
