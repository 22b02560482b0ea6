"""The next action for a contract that is to run. Pure; part of `diff`, whose rules hold here."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kaalia.contracts.wish import Wish
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.reconciler import status
from kaalia.reconciler.actions import Action, Launch, Lose, Nothing, Record, Renew, Restart, Start
from kaalia.reconciler.notes import carry_through, note
from kaalia.reconciler.seen import (
    FINAL,
    Interruption,
    is_current,
    is_gone,
    is_stop_begun,
    restart_asked,
    started_unseen,
    was_interrupted,
)
from kaalia.runtime.base import Observed, ObservedState

_NOTHING = Nothing()


def run(
    wish: Wish,
    row: WorkloadStatus | None,
    observed: Observed | None,
    now: datetime,
    interruptions: Sequence[Interruption],
) -> Action:
    contract = wish.contract
    if observed is None:
        return _absent(wish, row)
    if observed.generation < contract.generation and observed.state is not ObservedState.REMOVING:
        if row is None or row.not_made is None or row.not_made.generation < contract.generation:
            return Renew(contract, wish.gpu_uuids, observed)
        # The newer one could not be made: what is there goes on as the contract's.
        contract = replace(contract, generation=observed.generation)
        wish = replace(wish, contract=contract)
    match observed.state:
        case ObservedState.RUNNING if is_stop_begun(row):
            return carry_through(observed)
        case ObservedState.RUNNING:
            is_asked = row is not None and restart_asked(contract, row) and not started_unseen(row, observed)
            if is_asked:
                return Restart(contract, wish.gpu_uuids)
            noted = note(contract, row, observed, now)
            return _warn(wish, row, now) if isinstance(noted, Nothing) else noted
        case ObservedState.CREATED:
            is_failed = row is not None and row.state is WorkloadState.FAILED
            is_held = is_failed and row is not None and not restart_asked(contract, row)
            return _NOTHING if is_held else Start(contract, wish.gpu_uuids)
        case ObservedState.EXITED:
            return _exited(wish, row, observed, now, interruptions)
        case _:
            return note(contract, row, observed, now)


def _warn(wish: Wish, row: WorkloadStatus | None, now: datetime) -> Action:
    """A warning to tell, or one that is over, behind the words of a workload that runs."""
    if row is None or row.state is not WorkloadState.RUNNING:
        return _NOTHING
    if not wish.warning and status.WARNING not in row.status_msg:
        return _NOTHING
    words = status.running_words(wish.contract, wish.warning)
    return _NOTHING if row.status_msg == words else Record(replace(row, status_msg=words, as_of=now))


def _absent(wish: Wish, row: WorkloadStatus | None) -> Action:
    contract = wish.contract
    if row is None or not is_current(contract, row):
        return Launch(contract, wish.gpu_uuids)
    if row.state in FINAL:
        return _NOTHING
    if is_gone(contract, row):
        return Lose(contract.contract_id, contract.generation)
    if row.state is WorkloadState.FAILED:
        is_lost = row.problem is not None and row.problem.code == "workload_lost"
        return Launch(contract, wish.gpu_uuids) if restart_asked(contract, row) and not is_lost else _NOTHING
    return Launch(contract, wish.gpu_uuids)


def _exited(
    wish: Wish, row: WorkloadStatus | None, observed: Observed, now: datetime, interruptions: Sequence[Interruption]
) -> Action:
    contract = wish.contract
    start = Start(contract, wish.gpu_uuids)
    exited = Record(status.seen(contract, row, observed, now))
    if row is None or (started_unseen(row, observed) and not was_interrupted(row, observed, interruptions)):
        return exited
    if restart_asked(contract, row):
        return start
    match row.state:
        case WorkloadState.STOPPED | WorkloadState.STOPPING | WorkloadState.CREATING | WorkloadState.STARTING:
            return start
        case WorkloadState.FAILED:
            return _NOTHING
        case WorkloadState.EXITED:
            return start if was_interrupted(row, observed, interruptions) else _NOTHING
        case _:
            return start if was_interrupted(row, observed, interruptions) else exited
