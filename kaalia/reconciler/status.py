"""Statuses in the making: a fact seen or decided, and the words that the renter reads about it.

While all goes well no word here may be one that clients take for a fault: error, failed, exception and the like.
"""

from dataclasses import replace
from datetime import datetime

from kaalia.contracts import image
from kaalia.contracts.contract import Contract
from kaalia.errors import Problem
from kaalia.model.workload import NotMade, WorkloadState, WorkloadStatus
from kaalia.runtime.base import ALIVE, Observed, ObservedState

WARNING = "; warning: "
"""Between the words of a workload that runs and what its renter should know of it."""


def blank(contract_id: int, generation: int, row: WorkloadStatus | None, now: datetime) -> WorkloadStatus:
    """The facts that outlive a change of state. A new generation keeps its place and its count of reboots only."""
    if row is None:
        return WorkloadStatus(contract_id, generation, WorkloadState.WAITING, now)
    kept = replace(row, generation=generation, as_of=now, status_msg="", problem=None)
    if row.generation == generation:
        return kept
    kept = replace(kept, container_id=None, started_at=None, finished_at=None, exit_code=None, public_ipaddr=None)
    return replace(kept, not_made=None, image=None)


def waiting(contract: Contract, row: WorkloadStatus | None, reason: str, now: datetime) -> WorkloadStatus:
    base = blank(contract.contract_id, contract.generation, row, now)
    return replace(base, state=WorkloadState.WAITING, status_msg=reason)


def rejected(contract: Contract, row: WorkloadStatus | None, problem: Problem, now: datetime) -> WorkloadStatus:
    base = blank(contract.contract_id, contract.generation, row, now)
    text = f"{problem.message} [{problem.code}]"
    told = f"{text}. {problem.remedy}" if problem.remedy else text
    return replace(base, state=WorkloadState.REJECTED, status_msg=told, problem=problem)


def preparing(
    contract: Contract,
    row: WorkloadStatus | None,
    gpu_uuids: tuple[str, ...],
    state: WorkloadState,
    now: datetime,
    before: Observed | None = None,
) -> WorkloadStatus:
    """On the way to running: PULLING, CREATING or STARTING. `before`: what exists; a later start is another one."""
    base = blank(contract.contract_id, contract.generation, row, now)
    if before is not None:
        base = replace(base, started_at=before.started_at)
    if state is WorkloadState.CREATING:
        base = replace(base, image=contract.spec.image)
    name = image.shown(contract.spec.image)
    words = {
        WorkloadState.PULLING: f"loading {name}",
        WorkloadState.CREATING: f"creating {name}/{contract.spec.launch_mode}",
    }
    text = words.get(state, f"starting {name}/{contract.spec.launch_mode}")
    return replace(base, state=state, status_msg=text, gpu_uuids=gpu_uuids, exit_code=None, finished_at=None)


def renewing(
    contract: Contract,
    row: WorkloadStatus | None,
    observed: Observed,
    gpu_uuids: tuple[str, ...],
    now: datetime,
    line: str = "",
) -> WorkloadStatus:
    """On the way to a newer generation: RUNNING while the older one runs, else PULLING. Its facts stay till it goes."""
    older = replace(contract, generation=observed.generation)
    words = line or f"loading {image.shown(contract.spec.image)}"
    if observed.state in ALIVE:
        known = seen(older, row, observed, now) if observed.state is ObservedState.RUNNING or row is None else row
        return replace(known, status_msg=words, as_of=now)
    return replace(preparing(older, row, gpu_uuids, WorkloadState.PULLING, now, observed), status_msg=words)


def not_made(
    contract: Contract, row: WorkloadStatus | None, observed: Observed, problem: Problem, now: datetime
) -> WorkloadStatus:
    """The newer generation is given up. What ran runs on; what did not is told why, until its renter asks again."""
    older, told = replace(contract, generation=observed.generation), NotMade(contract.generation, problem)
    if observed.state in ALIVE:
        known = seen(older, row, observed, now) if observed.state is ObservedState.RUNNING or row is None else row
        return replace(known, status_msg=running_words(contract, told.warning), as_of=now, not_made=told)
    given_up = _facts(failed(contract.contract_id, observed.generation, row, problem, now), observed)
    return replace(given_up, restarts_done=contract.restart_count, not_made=told)


def seen(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> WorkloadStatus:
    """RUNNING or EXITED by itself, as the container stands."""
    base = _facts(blank(contract.contract_id, observed.generation, row, now), observed)
    if observed.state is ObservedState.RUNNING:
        text = running_words(contract)
        return replace(base, state=WorkloadState.RUNNING, status_msg=text, finished_at=None, exit_code=None)
    return replace(base, state=WorkloadState.EXITED, status_msg=_exit_words(observed), problem=_exit_problem(observed))


def running_words(contract: Contract, warning: str = "") -> str:
    text = f"success, running {image.shown(contract.spec.image)}/{contract.spec.launch_mode}"
    return f"{text}{WARNING}{warning}" if warning else text


def stopped(
    contract_id: int, generation: int, row: WorkloadStatus | None, observed: Observed | None, reason: str, now: datetime
) -> WorkloadStatus:
    base = blank(contract_id, generation, row, now)
    facts = _facts(base, observed) if observed else base
    return replace(facts, state=WorkloadState.STOPPED, status_msg=reason, finished_at=facts.finished_at or now)


def paused(contract: Contract, row: WorkloadStatus | None, observed: Observed, now: datetime) -> WorkloadStatus:
    """Nobody of ours pauses: it is told, and left alone."""
    problem = Problem(
        "workload_paused",
        f"cannot use {observed.name}: somebody paused it on the machine",
        remedy=f"the owner runs: docker unpause {observed.name}",
    )
    base = _facts(blank(contract.contract_id, observed.generation, row, now), observed)
    return replace(base, state=WorkloadState.STOPPED, status_msg=problem.message, problem=problem)


def stopping(contract_id: int, generation: int, row: WorkloadStatus | None, now: datetime) -> WorkloadStatus:
    return replace(blank(contract_id, generation, row, now), state=WorkloadState.STOPPING, status_msg="stopping")


def removing(contract_id: int, generation: int, row: WorkloadStatus | None, now: datetime) -> WorkloadStatus:
    return replace(blank(contract_id, generation, row, now), state=WorkloadState.REMOVING, status_msg="removing")


def failed(
    contract_id: int, generation: int, row: WorkloadStatus | None, problem: Problem, now: datetime
) -> WorkloadStatus:
    base = blank(contract_id, generation, row, now)
    text = f"{problem.message}. {problem.remedy}" if problem.remedy else problem.message
    return replace(base, state=WorkloadState.FAILED, status_msg=text, problem=problem)


def lost(contract_id: int, generation: int, row: WorkloadStatus | None, now: datetime) -> WorkloadStatus:
    problem = Problem(
        "workload_lost",
        f"cannot find the container C.{contract_id}: it was removed on the machine, and its data with it",
        remedy="recycle the instance to begin anew, or destroy it",
    )
    return forget(failed(contract_id, generation, row, problem, now))


def dead(contract_id: int, generation: int, row: WorkloadStatus | None, now: datetime) -> WorkloadStatus:
    problem = Problem(
        "workload_dead",
        f"cannot start C.{contract_id}: the container engine could not remove it completely and calls it dead",
        remedy="destroy the instance; the owner restarts the container engine if it stays",
    )
    return failed(contract_id, generation, row, problem, now)


def ended(contract_id: int, generation: int, row: WorkloadStatus | None, now: datetime) -> WorkloadStatus:
    return replace(forget(blank(contract_id, generation, row, now)), state=WorkloadState.ENDED, status_msg="ended")


def unknown(row: WorkloadStatus, reason: str, now: datetime) -> WorkloadStatus:
    """It ran, and now the engine does not answer: the facts stay. Only RUNNING becomes this."""
    return replace(row, state=WorkloadState.UNKNOWN, status_msg=reason, as_of=now)


def forget(status: WorkloadStatus) -> WorkloadStatus:
    """The container and all it held are gone."""
    return replace(status, container_id=None, gpu_uuids=(), ports=())


def _facts(status: WorkloadStatus, observed: Observed) -> WorkloadStatus:
    return replace(
        status,
        container_id=observed.container_id,
        gpu_uuids=observed.gpu_uuids or status.gpu_uuids,
        ports=observed.ports or status.ports,
        started_at=observed.started_at or status.started_at,
        finished_at=observed.finished_at or status.finished_at,
        exit_code=observed.exit_code if observed.exit_code is not None else status.exit_code,
    )


def _exit_words(observed: Observed) -> str:
    if observed.oom_killed:
        return "exited: the process used more memory than its share"
    return f"exited with code {observed.exit_code}" if observed.exit_code is not None else "exited"


def _exit_problem(observed: Observed) -> Problem | None:
    if not observed.oom_killed:
        return None
    return Problem(
        "out_of_memory",
        f"cannot go on in {observed.name}: its processes used more memory than its share",
        remedy="use less memory, or rent a larger part of a machine",
    )
