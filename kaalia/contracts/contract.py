"""The agreement between a renter and a machine, as both sides hold it."""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from kaalia.contracts.offer import Listing, lowest
from kaalia.model.workload import NotMade, WorkloadSpec


class ContractKind(StrEnum):
    ON_DEMAND = "on_demand"
    RESERVED = "reserved"
    INTERRUPTIBLE = "interruptible"
    DEFAULT_JOB = "default_job"
    SELFTEST = "selftest"


OWN_KINDS = frozenset({ContractKind.SELFTEST, ContractKind.DEFAULT_JOB})
"""Work for the machine's owner: nobody pays for it, no listing is asked, and it gives way to every rental."""


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
    terms: Listing | None = None
    """What the owner asked for when this was agreed, `end_at` worked out. None: an older marketplace, or own work."""
    ssh_keys: tuple[str, ...] | None = None
    """Public keys that may log in now. None: an older marketplace, which tells the account's in SSH_PUBLIC_KEY only."""
    gpu_model: str | None = None
    """As `slicing.model_of` spells it; it gets no GPU of another. None: an older marketplace; any one model will do."""
    refused: NotMade | None = None
    """The newest generation that this machine does not take: its own word, never the marketplace's."""


def prolonged(contract: Contract, end_at: datetime | None) -> Contract:
    """With a later end that the owner has agreed to."""
    terms = None if contract.terms is None else replace(contract.terms, end_at=end_at)
    return replace(contract, end_at=end_at, terms=terms)


def repriceable(contract: Contract, listing: Listing) -> Contract:
    """May come to cost what `listing` asks, which the owner offers: lower terms let a lower price pass."""
    terms = None if contract.terms is None else lowest(contract.terms, listing)
    return replace(contract, terms=terms)


def is_expired(contract: Contract, now: datetime) -> bool:
    """An expired contract is stopped and may not start; its data stays."""
    return contract.end_at is not None and now >= contract.end_at
