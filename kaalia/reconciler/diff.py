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
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from kaalia.contracts.contract import Contract
from kaalia.contracts.placement import Want, Wish, is_abandoned
from kaalia.errors import Problem
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.reconciler import status
from kaalia.reconciler.actions import (
    Action,
    Clear,
    Frees,
    Launch,
    Lose,
    Nothing,
    Record,
    Remove,
    Renew,
    Restart,
    Start,
    Stop,
)
from kaalia.runtime.base import ALIVE, Observed, ObservedState

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


_NOTHING = Nothing()
_FINAL = (WorkloadState.ENDED, WorkloadState.REJECTED)


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
    if not isinstance(action, Nothing) or row is None or row.state in _FINAL or refused in (None, row.not_made):
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
    if row is not None and observed is not None and _started_unseen(row, observed):
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
            return _run(wish, row, observed, now, interruptions)


def diff_orphan(observed: Observed, missing_since: datetime, missing_revisions: int, now: datetime) -> Action:
    """A container of ours without a contract in the books: quarantined.

    It runs until the end that its label names. It goes when the marketplace's words leave it out for long.
    """
    if is_abandoned(missing_since, missing_revisions, now):
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
        return _note(wish.contract, row, observed, now)
    if wish.problem is None or (row and row.state is WorkloadState.REJECTED and row.problem == wish.problem):
        return _NOTHING
    return Record(status.rejected(wish.contract, row, wish.problem, now), Frees.ALL)


def _wait(wish: Wish, row: WorkloadStatus | None, observed: Observed | None, now: datetime) -> Action:
    """Nothing is stopped for waiting. What does not run tells what it waits for."""
    contract = wish.contract
    if observed is None:
        if _is_gone(contract, row):
            return Lose(contract.contract_id, contract.generation)
        if _is_current(contract, row) and row and row.state in (*_FINAL, WorkloadState.FAILED):
            return _NOTHING
        return _wait_absent(wish, row, now)
    if observed.state in (ObservedState.EXITED, ObservedState.CREATED):
        return _stay_stopped(contract, row, observed, wish.reason, now)
    return _note(contract, row, observed, now)


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
            return _dead(contract, row, observed, now)
        case ObservedState.REMOVING:
            return _NOTHING


def _stop_absent(wish: Wish, row: WorkloadStatus | None, now: datetime) -> Action:
    contract = wish.contract
    if _is_gone(contract, row):
        return Lose(contract.contract_id, contract.generation)
    quiet = (*_FINAL, WorkloadState.FAILED, WorkloadState.STOPPED)
    if row is not None and _is_current(contract, row) and row.state in quiet:
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
    is_unanswered = row is not None and problem is not None and _restart_asked(contract, row)
    is_told = row and row.state is WorkloadState.STOPPED and row.problem == problem and row.status_msg == reason
    if is_told and not is_unanswered:
        return _NOTHING
    stopped = status.stopped(contract.contract_id, observed.generation, row, observed, reason, now)
    answered = contract.restart_count if problem is not None else stopped.restarts_done
    return Record(replace(stopped, problem=problem, restarts_done=answered), Frees.GPUS)


def _run(
    wish: Wish,
    row: WorkloadStatus | None,
    observed: Observed | None,
    now: datetime,
    interruptions: Sequence[Interruption],
) -> Action:
    contract = wish.contract
    if observed is None:
        return _run_absent(wish, row)
    if observed.generation < contract.generation and observed.state is not ObservedState.REMOVING:
        if row is None or row.not_made is None or row.not_made.generation < contract.generation:
            return Renew(contract, wish.gpu_uuids, observed)
        # The newer one could not be made: what is there goes on as the contract's.
        contract = replace(contract, generation=observed.generation)
        wish = replace(wish, contract=contract)
    match observed.state:
        case ObservedState.RUNNING if _is_stop_begun(row):
            return _carry_through(observed)
        case ObservedState.RUNNING:
            is_asked = row is not None and _restart_asked(contract, row) and not _started_unseen(row, observed)
            if is_asked:
                return Restart(contract, wish.gpu_uuids)
            noted = _note(contract, row, observed, now)
            return _warn(wish, row, now) if isinstance(noted, Nothing) else noted
        case ObservedState.CREATED:
            is_failed = row is not None and row.state is WorkloadState.FAILED
            is_held = is_failed and row is not None and not _restart_asked(contract, row)
            return _NOTHING if is_held else Start(contract, wish.gpu_uuids)
        case ObservedState.EXITED:
            return _run_exited(wish, row, observed, now, interruptions)
        case _:
            return _note(contract, row, observed, now)


def _warn(wish: Wish, row: WorkloadStatus | None, now: datetime) -> Action:
    """A warning to tell, or one that is over, behind the words of a workload that runs."""
    if row is None or row.state is not WorkloadState.RUNNING:
        return _NOTHING
    if not wish.warning and status.WARNING not in row.status_msg:
        return _NOTHING
    words = status.running_words(wish.contract, wish.warning)
    return _NOTHING if row.status_msg == words else Record(replace(row, status_msg=words, as_of=now))


def _run_absent(wish: Wish, row: WorkloadStatus | None) -> Action:
    contract = wish.contract
    if row is None or not _is_current(contract, row):
        return Launch(contract, wish.gpu_uuids)
    if row.state in _FINAL:
        return _NOTHING
    if _is_gone(contract, row):
        return Lose(contract.contract_id, contract.generation)
    if row.state is WorkloadState.FAILED:
        is_lost = row.problem is not None and row.problem.code == "workload_lost"
        return Launch(contract, wish.gpu_uuids) if _restart_asked(contract, row) and not is_lost else _NOTHING
    return Launch(contract, wish.gpu_uuids)


def _run_exited(
    wish: Wish, row: WorkloadStatus | None, observed: Observed, now: datetime, interruptions: Sequence[Interruption]
) -> Action:
    contract = wish.contract
    start = Start(contract, wish.gpu_uuids)
    exited = Record(status.seen(contract, row, observed, now))
    if row is None or (_started_unseen(row, observed) and not _was_interrupted(row, observed, interruptions)):
        return exited
    if _restart_asked(contract, row):
        return start
    match row.state:
        case WorkloadState.STOPPED | WorkloadState.STOPPING | WorkloadState.CREATING | WorkloadState.STARTING:
            return start
        case WorkloadState.FAILED:
            return _NOTHING
        case WorkloadState.EXITED:
            return start if _was_interrupted(row, observed, interruptions) else _NOTHING
        case _:
            return start if _was_interrupted(row, observed, interruptions) else exited


def _note(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> Action:
    """Write down what is seen, when the books say something else."""
    match observed.state:
        case ObservedState.RUNNING if _is_stop_begun(row):
            return _carry_through(observed)
        case ObservedState.RUNNING:
            return _NOTHING if row and _is_told(row, observed) else Record(_adopted(contract, row, observed, now))
        case ObservedState.PAUSED:
            is_told = row and row.problem and row.problem.code == "workload_paused"
            return _NOTHING if is_told else Record(status.paused(contract, row, observed, now))
        case ObservedState.DEAD:
            return _dead(contract, row, observed, now)
        case _:
            return _NOTHING


def _is_stop_begun(row: WorkloadStatus | None) -> bool:
    """Whoever asked the engine did not hear the end of it."""
    return row is not None and row.state is WorkloadState.STOPPING


def _carry_through(observed: Observed) -> Action:
    """Taken for running it would seem to end by itself in a moment, and would never be started again."""
    return Stop(observed.contract_id, observed.generation, "stopped")


def _adopted(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> WorkloadStatus:
    """Reboots of which nobody knows whether they were done are not repeated."""
    found = status.seen(contract, row, observed, now)
    return found if row else replace(found, restarts_done=contract.restart_count)


def _dead(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> Action:
    if row and row.state is WorkloadState.FAILED:
        return _NOTHING
    return Record(status.dead(contract.contract_id, observed.generation, row, now), Frees.GPUS)


def _is_told(row: WorkloadStatus, observed: Observed) -> bool:
    is_same_start = observed.started_at is None or row.started_at == observed.started_at
    return row.state is WorkloadState.RUNNING and row.container_id == observed.container_id and is_same_start


def _is_current(contract: Contract, row: WorkloadStatus | None) -> bool:
    return row is not None and row.generation >= contract.generation


def _is_gone(contract: Contract, row: WorkloadStatus | None) -> bool:
    """The books know a container of this generation, which a complete list does not hold."""
    if row is None or row.container_id is None or row.state in _FINAL:
        return False
    return _is_current(contract, row)


def _restart_asked(contract: Contract, row: WorkloadStatus) -> bool:
    return contract.restart_count > row.restarts_done


def _started_unseen(row: WorkloadStatus, observed: Observed) -> bool:
    """A start was intended, and it happened, though nobody wrote that down: the books name the start before it."""
    is_intended = row.state in (WorkloadState.CREATING, WorkloadState.STARTING)
    return is_intended and observed.started_at not in (None, row.started_at)


def _was_interrupted(row: WorkloadStatus, observed: Observed, interruptions: Sequence[Interruption]) -> bool:
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
