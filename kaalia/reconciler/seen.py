"""What is seen of a contract's container, and what that means beside the books. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.contracts.contract import Contract
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.runtime.base import Observed

FINAL = (WorkloadState.ENDED, WorkloadState.REJECTED)
SIGNAL_EXIT = 128
"""Exit codes from here on: ended by a signal, so possibly not by its own will."""


class Sight(StrEnum):
    ABSENT = "absent"
    """Proven: a complete list does not hold it."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Interruption:
    """A time in which the machine itself ended containers: a reboot, or an outage of the engine."""

    began_at: datetime
    ended_at: datetime
    ends_all: bool = False
    """Nothing survives it: an exit that falls into it is not the workload's own, whatever the code."""


def is_stop_begun(row: WorkloadStatus | None) -> bool:
    """Whoever asked the engine did not hear the end of it."""
    return row is not None and row.state is WorkloadState.STOPPING


def is_noted(row: WorkloadStatus, observed: Observed) -> bool:
    """The books say that this very start runs."""
    is_same_start = observed.started_at is None or row.started_at == observed.started_at
    return row.state is WorkloadState.RUNNING and row.container_id == observed.container_id and is_same_start


def is_current(contract: Contract, row: WorkloadStatus | None) -> bool:
    """The books speak of the generation that is wanted."""
    return row is not None and row.generation >= contract.generation


def is_gone(contract: Contract, row: WorkloadStatus | None) -> bool:
    """The books know a container of this generation, which a complete list does not hold."""
    if row is None or row.container_id is None or row.state in FINAL:
        return False
    return is_current(contract, row)


def restart_asked(contract: Contract, row: WorkloadStatus) -> bool:
    return contract.restart_count > row.restarts_done


def started_unseen(row: WorkloadStatus, observed: Observed) -> bool:
    """A start was intended, and it happened, though nobody wrote that down: the books name the start before it."""
    is_intended = row.state in (WorkloadState.CREATING, WorkloadState.STARTING)
    return is_intended and observed.started_at not in (None, row.started_at)


def was_interrupted(row: WorkloadStatus, observed: Observed, interruptions: Sequence[Interruption]) -> bool:
    """The machine ended it. An exit that was seen and looks voluntary was the workload's own.

    Unless nothing survives: an engine without live-restore first asks all workloads to end, and some do so politely.
    """
    is_polite = row.state is WorkloadState.EXITED and (observed.exit_code or 0) < SIGNAL_EXIT
    started_at = observed.started_at or row.started_at
    fitting = [one for one in interruptions if one.ends_all or not is_polite]
    return any(_falls_into(started_at, observed.finished_at, one) for one in fitting)


def _falls_into(started_at: datetime | None, finished_at: datetime | None, interruption: Interruption) -> bool:
    if started_at is None or started_at >= interruption.ended_at:
        return False
    return finished_at is None or finished_at >= interruption.began_at
