"""What is written down of a container that is seen, when the books say something else. Pure."""

from dataclasses import replace
from datetime import datetime

from kaalia.contracts.contract import Contract
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.reconciler import status
from kaalia.reconciler.actions import Action, Frees, Nothing, Record, Stop
from kaalia.reconciler.seen import is_noted, is_stop_begun
from kaalia.runtime.base import Observed, ObservedState

_NOTHING = Nothing()


def note(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> Action:
    """What is seen of a container that nothing is to be done about now."""
    match observed.state:
        case ObservedState.RUNNING if is_stop_begun(row):
            return carry_through(observed)
        case ObservedState.RUNNING:
            return _NOTHING if row and is_noted(row, observed) else Record(_adopted(contract, row, observed, now))
        case ObservedState.PAUSED:
            is_told = row and row.problem and row.problem.code == "workload_paused"
            return _NOTHING if is_told else Record(status.paused(contract, row, observed, now))
        case ObservedState.DEAD:
            return dead(contract, row, observed, now)
        case _:
            return _NOTHING


def carry_through(observed: Observed) -> Action:
    """Taken for running it would seem to end by itself in a moment, and would never be started again."""
    return Stop(observed.contract_id, observed.generation, "stopped")


def _adopted(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> WorkloadStatus:
    """Reboots of which nobody knows whether they were done are not repeated."""
    found = status.seen(contract, row, observed, now)
    return found if row else replace(found, restarts_done=contract.restart_count)


def dead(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> Action:
    """The engine could not remove it; its GPUs are free."""
    if row and row.state is WorkloadState.FAILED:
        return _NOTHING
    return Record(status.dead(contract.contract_id, observed.generation, row, now), Frees.GPUS)
