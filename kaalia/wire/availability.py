"""Reliability as the local API tells it, and by what two sides know that they have the same record."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from kaalia.contracts.reliability import Line
from kaalia.model.availability import Record
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """`cost`: of the figure, now; None: the marketplace did not notice it. From `recovers_at` on it costs nothing."""

    line: Line
    cost: float | None
    recovers_at: datetime | None


@dataclass(frozen=True, slots=True)
class ReliabilityDocument:
    """`reliability`: reckoned here, None without a record; `told`: by the marketplace, at `told_at`."""

    as_of: datetime
    reliability: float | None
    told: float | None
    told_at: datetime | None
    record: Record | None
    is_rented: bool
    ledger: tuple[LedgerLine, ...]


def digest(record: Record) -> str:
    return sha256(document.encode(record).encode()).hexdigest()[:16]
