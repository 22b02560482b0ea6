"""Wish, books and sight of one contract in, the next action out. Pure, and total over all states.

Rules that hold everywhere:
- Nothing is done on `UNKNOWN`: not knowing is not absence.
- A running workload is stopped or removed only when the wish is STOP, YIELD or END, or a newer generation takes its
  place, whose image is here by then; one that cannot be made leaves the older one alone. A stop that was begun is
  carried through, whatever is wished by now: the engine may yet end the process.
- A container that is gone is never made again in silence: its data are gone too.
- A process that ended by itself stays ended until the renter asks; one that the machine ended is started again.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kaalia.contracts.contract import Contract
from kaalia.contracts.local import is_local
from kaalia.contracts.placement import is_abandoned
from kaalia.contracts.wish import Want, Wish
from kaalia.errors import Problem
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.reconciler import status
from kaalia.reconciler.actions import Action, Clear, Frees, Lose, Nothing, Record, Remove, Stop
from kaalia.reconciler.notes import dead, note
from kaalia.reconciler.seen import FINAL, Interruption, Sight, is_current, is_gone, restart_asked, started_unseen
from kaalia.reconciler.to_run import run
from kaalia.runtime.base import ALIVE, Observed, ObservedState

_NOTHING = Nothing()


def diff(
    wish: Wish,
    row: WorkloadStatus | None,
    sight: Observed | Sight,
    now: datetime,
    interruptions: Sequence[Interruption] = (),
    intended: Sequence[int] = (),
) -> Action:
    """The one next action for a contract.

    `intended`: the reboots that each of its open intents to start carries out, oldest first.
    """
    if sight is Sight.UNKNOWN:
        return _NOTHING
    action = _next(wish, row, sight, now, interruptions, intended)
    refused = wish.contract.refused
    if not isinstance(action, Nothing) or row is None or row.state in FINAL or refused in (None, row.not_made):
        return action
    return Record(replace(row, not_made=refused, as_of=now))


def _next(
    wish: Wish,
    row: WorkloadStatus | None,
    sight: Observed | Sight,
    now: datetime,
    interruptions: Sequence[Interruption],
    intended: Sequence[int],
) -> Action:
    observed = sight if isinstance(sight, Observed) else None
    if row is not None and observed is not None and started_unseen(row, observed):
        # That start did the reboots that were asked before it, and none that were asked since. Which intent's it was
        # is not known if several are open: one reboot too many rather than one that was forgotten.
        row = replace(row, restarts_done=max(row.restarts_done, *intended[:1]))
    match wish.want:
        case Want.END:
            return _end(wish.contract, row, observed)
        case Want.REJECT:
            return _reject(wish, row, observed, now)
        case Want.WAIT:
            return _wait(wish, row, observed, now)
        case Want.YIELD:
            return _yield(wish, row, observed, now)
        case Want.STOP:
            return _stop(wish, row, observed, now)
        case Want.RUN:
            return run(wish, row, observed, now, interruptions)


def diff_orphan(observed: Observed, missing_since: datetime, missing_revisions: int, now: datetime) -> Action:
    """A container of ours without a contract in the books: quarantined.

    It runs until the end that its label names. It goes when the marketplace's words leave it out for long; a test of
    the machine's own at once.
    """
    if is_local(observed.contract_id) or is_abandoned(missing_since, missing_revisions, now):
        return Remove(observed.contract_id, observed.generation)
    if observed.end_at is None or now < observed.end_at or observed.state not in ALIVE:
        return _NOTHING
    return Stop(observed.contract_id, observed.generation, "stopped: the contract ended")


def _end(contract: Contract, row: WorkloadStatus | None, observed: Observed | None) -> Action:
    if observed is None and row is not None and row.state is WorkloadState.ENDED:
        return _NOTHING
    return Remove(contract.contract_id, contract.generation)


def _reject(wish: Wish, row: WorkloadStatus | None, observed: Observed | None, now: datetime) -> Action:
    if observed is not None:
        return note(wish.contract, row, observed, now)
    if wish.problem is None or (row and row.state is WorkloadState.REJECTED and row.problem == wish.problem):
        return _NOTHING
    return Record(status.rejected(wish.contract, row, wish.problem, now), Frees.ALL)


def _wait(wish: Wish, row: WorkloadStatus | None, observed: Observed | None, now: datetime) -> Action:
    """Nothing is stopped for waiting. What does not run tells what it waits for."""
    contract = wish.contract
    if observed is None:
        if is_gone(contract, row):
            return Lose(contract.contract_id, contract.generation)
        if is_current(contract, row) and row and row.state in (*FINAL, WorkloadState.FAILED):
            return _NOTHING
        return _wait_absent(wish, row, now)
    if observed.state in (ObservedState.EXITED, ObservedState.CREATED):
        return _stay_stopped(contract, row, observed, wish.reason, now)
    return note(contract, row, observed, now)


def _wait_absent(wish: Wish, row: WorkloadStatus | None, now: datetime) -> Action:
    """What was begun before stays admitted: it is stopped, not new again."""
    contract = wish.contract
    if row is None or row.state in (WorkloadState.WAITING, WorkloadState.REJECTED):
        told = status.waiting(contract, row, wish.reason, now)
    else:
        stopped = status.stopped(contract.contract_id, contract.generation, row, None, wish.reason, now)
        told = status.forget(stopped)
    is_told = (
        row and row.state is told.state and row.status_msg == told.status_msg and row.generation == told.generation
    )
    return _NOTHING if is_told else _break_off(row, told)


def _break_off(row: WorkloadStatus | None, told: WorkloadStatus) -> Action:
    """The network of a launch comes before its container, and has its subnet for as long as it is there.

    In a recycle it outlives the older container, and waits while the newer image is loaded once more.
    """
    is_begun = row is not None and row.state in _HAS_NETWORK
    is_loading_anew = row is not None and row.state is WorkloadState.PULLING and row.generation > 1
    return Clear(told) if is_begun or is_loading_anew else Record(told, Frees.ALL)


_HAS_NETWORK = (WorkloadState.CREATING, WorkloadState.STARTING, WorkloadState.REMOVING)


def _yield(wish: Wish, row: WorkloadStatus | None, observed: Observed | None, now: datetime) -> Action:
    """Stop what runs. What ended by itself only gives its GPUs back: it is not to run when they return."""
    if observed is not None and observed.state in ALIVE:
        return Stop(wish.contract.contract_id, observed.generation, wish.reason)
    is_exited = observed is not None and observed.state is ObservedState.EXITED
    if row and is_exited and row.state in (WorkloadState.EXITED, WorkloadState.FAILED):
        is_told = row.status_msg.endswith(_GIVEN_BACK)
        told = replace(row, status_msg=f"{row.status_msg}{_GIVEN_BACK}", as_of=now)
        return _NOTHING if is_told else Record(told, Frees.GPUS)
    return _wait(wish, row, observed, now)


_GIVEN_BACK = "; its GPUs went to another contract"


def _stop(wish: Wish, row: WorkloadStatus | None, observed: Observed | None, now: datetime) -> Action:
    contract = wish.contract
    if observed is None:
        return _stop_absent(wish, row, now)
    match observed.state:
        case ObservedState.RUNNING | ObservedState.PAUSED | ObservedState.RESTARTING:
            return Stop(contract.contract_id, observed.generation, wish.reason, wish.problem)
        case ObservedState.CREATED | ObservedState.EXITED:
            return _stay_stopped(contract, row, observed, wish.reason, now, wish.problem)
        case ObservedState.DEAD:
            return dead(contract, row, observed, now)
        case ObservedState.REMOVING:
            return _NOTHING


def _stop_absent(wish: Wish, row: WorkloadStatus | None, now: datetime) -> Action:
    contract = wish.contract
    if is_gone(contract, row):
        return Lose(contract.contract_id, contract.generation)
    quiet = (*FINAL, WorkloadState.FAILED, WorkloadState.STOPPED)
    if row is not None and is_current(contract, row) and row.state in quiet:
        return _NOTHING
    stopped = status.stopped(contract.contract_id, contract.generation, row, None, wish.reason, now)
    return _break_off(row, status.forget(stopped))


def _stay_stopped(
    contract: Contract,
    row: WorkloadStatus | None,
    observed: Observed,
    reason: str,
    now: datetime,
    problem: Problem | None = None,
) -> Action:
    # With a problem every start is refused, and so is a reboot that is asked for: it is answered, not put off.
    is_unanswered = row is not None and problem is not None and restart_asked(contract, row)
    is_told = row and row.state is WorkloadState.STOPPED and row.problem == problem and row.status_msg == reason
    if is_told and not is_unanswered:
        return _NOTHING
    stopped = status.stopped(contract.contract_id, observed.generation, row, observed, reason, now)
    answered = contract.restart_count if problem is not None else stopped.restarts_done
    return Record(replace(stopped, problem=problem, restarts_done=answered), Frees.GPUS)
