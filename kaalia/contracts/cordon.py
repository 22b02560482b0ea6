"""The owner's cordon: nothing new is admitted, what runs goes on; and what still holds a machine that is drained.

Vacant means that nothing of a renter runs and nothing that was admitted may start again. Data of expired contracts
and volumes stay: they hold nobody up.
"""

from dataclasses import dataclass
from datetime import datetime

from kaalia.contracts.contract import OWN_KINDS, Contract, Desired, is_expired
from kaalia.model.workload import WorkloadState, WorkloadStatus

_OVER = (WorkloadState.ENDED, WorkloadState.REJECTED)
_AT_REST = (WorkloadState.WAITING, WorkloadState.STOPPED, WorkloadState.EXITED, WorkloadState.FAILED)


@dataclass(frozen=True, slots=True)
class Cordon:
    """`until_at`: it lifts by itself then; None: only the owner lifts it."""

    placed_at: datetime
    until_at: datetime | None = None


def is_up(cordon: Cordon | None, now: datetime) -> bool:
    return cordon is not None and (cordon.until_at is None or now < cordon.until_at)


def words(cordon: Cordon) -> str:
    """What a renter reads whose contract waits for it."""
    return f"the owner drains the machine and admits nothing new{_until(cordon)}"


def in_short(cordon: Cordon) -> str:
    """A line of a status."""
    return f"draining{_until(cordon) or ' until the owner lifts it'}"


def _until(cordon: Cordon) -> str:
    return f" until {cordon.until_at:%Y-%m-%d %H:%M} UTC" if cordon.until_at else ""


def holds(contract: Contract, status: WorkloadStatus | None, now: datetime) -> bool:
    """Does this contract keep the machine from being vacant?"""
    if status is None or status.state in _OVER or _is_new(status):
        return False
    if status.state not in _AT_REST or contract.desired is Desired.ENDED:
        return True
    # What is the owner's himself holds nobody up at rest.
    return contract.kind not in OWN_KINDS and not is_expired(contract, now)


def _is_new(status: WorkloadStatus) -> bool:
    """It was never admitted: it waits, and there is no container."""
    return status.state is WorkloadState.WAITING and status.container_id is None
