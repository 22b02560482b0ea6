"""The agreement between a renter and a machine, as both sides hold it."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from kaalia.model.workload import WorkloadSpec


class ContractKind(StrEnum):
    ON_DEMAND = "on_demand"
    RESERVED = "reserved"
    INTERRUPTIBLE = "interruptible"
    DEFAULT_JOB = "default_job"
    SELFTEST = "selftest"


class Desired(StrEnum):
    """What the renter wants of the workload. `ended` is the signed tombstone: remove container and data."""

    RUNNING = "running"
    STOPPED = "stopped"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Contract:
    """One agreement. `generation` grows with each change of `spec` (recycle, update)."""

    contract_id: int
    generation: int
    kind: ContractKind
    desired: Desired
    spec: WorkloadSpec
    price_usd_per_hour: Decimal
    """For the whole contract: GPUs at the agreed price, without storage."""
    start_at: datetime
    end_at: datetime | None = None
    """None: the listing had no end."""
    restart_count: int = 0
    """Grows by one with each reboot request."""


def is_expired(contract: Contract, now: datetime) -> bool:
    """An expired contract is stopped and may not start; its data stays."""
    return contract.end_at is not None and now >= contract.end_at
