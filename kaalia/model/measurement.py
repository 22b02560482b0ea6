"""What was measured of this machine, by itself: a number, how it came, and how far it may be trusted."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Bench(StrEnum):
    """What can be ordered."""

    CPU = "cpu"
    DISK = "disk"
    PCIE = "pcie"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number, the newest of its `name` and `subject` (empty: the machine; else the UUID of a GPU).

    `value` None: it was tried, and `reason` says why there is none. `spread`: standard deviation, as a share of the
    mean.
    """

    name: str
    subject: str
    value: float | None
    unit: str
    method: str
    measured_at: datetime
    duration_s: float
    spread: float | None = None
    reason: str = ""
    gentle: bool = False
    """Smaller and slower, since tenants ran."""
