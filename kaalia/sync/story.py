"""What the daemon did for one contract, in plain words: the daemon's own part of the logs that a renter can ask for.

Names neither other contracts nor anything of the machine, and no environment.
"""

from collections.abc import Iterator
from datetime import datetime
from heapq import merge

from kaalia.contracts import fitness
from kaalia.contracts.contract import Contract
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.store import conditions, contracts, intents, workloads
from kaalia.store.database import Transaction
from kaalia.store.intents import Step

STEPS_MAX = 200
_DEEDS = {
    "launch": ("make the container and start it", "made the container and started it"),
    "pull": ("fetch the image", "fetched the image"),
    "start": ("start it again", "started it again"),
    "restart": ("reboot it", "rebooted it"),
    "stop": ("stop it", "stopped it"),
    "remove": ("remove it", "removed it"),
    "recycle": ("make it anew", "made room to make it anew"),
}
"""By kind of intent: what is to be done, and what was."""
_STATES = {
    WorkloadState.WAITING: "it waits for its turn",
    WorkloadState.PULLING: "its image is being fetched",
    WorkloadState.CREATING: "its container is being made",
    WorkloadState.STARTING: "it is being started",
    WorkloadState.STOPPING: "it is being stopped",
    WorkloadState.EXITED: "its process has ended",
    WorkloadState.FAILED: "it could not be run",
    WorkloadState.REJECTED: "this machine refuses it",
    WorkloadState.REMOVING: "it is being removed",
    WorkloadState.ENDED: "it has ended",
    WorkloadState.UNKNOWN: "the container engine does not say how it is",
}
"""Those that are no adjective; the others are told by their name."""


def tell(tx: Transaction, contract_id: int) -> str | None:
    """One line an event, oldest first; None for a contract that is not known here."""
    stored = [s for s in contracts.all_contracts(tx) if s.contract.contract_id == contract_id]
    if not stored:
        return None
    steps = intents.history(tx, contract_id, STEPS_MAX)
    lines = [
        *_agreement(stored[0].contract),
        *merge((line for step in steps for line in _step(step)), _gpus(tx, contract_id), key=_when),
        *_now(workloads.get(tx, contract_id)),
    ]
    if stored[0].missing_since is not None:
        lines.append(
            _line(stored[0].missing_since, "the marketplace no longer mentions this contract; it runs on for now")
        )
    return "".join(f"{line}\n" for line in lines)


def _agreement(contract: Contract) -> list[str]:
    spec = contract.spec
    gpus = "1 GPU" if spec.gpu_count == 1 else f"{spec.gpu_count} GPUs"
    lines = [_line(contract.start_at, f"contract {contract.contract_id} begins: {spec.image} with {gpus}")]
    if contract.end_at is not None:
        lines.append(_line(contract.start_at, f"as agreed it ends at {_time(contract.end_at)}"))
    return lines


def _step(step: Step) -> list[str]:
    does, did = _DEEDS.get(step.kind, (step.kind, f"{step.kind} done"))
    which = "" if step.generation == 1 else f" (generation {step.generation})"
    if step.closed_at is None:
        return [_line(step.opened_at, f"began to {does}{which}, and is at it")]
    took = f"after {(step.closed_at - step.opened_at).total_seconds():.1f} s"
    if step.outcome in ("", "done"):
        return [_line(step.closed_at, f"{did}{which} {took}")]
    return [_line(step.closed_at, f"could not {does}{which}, {took} [{step.outcome}]")]


def _gpus(tx: Transaction, contract_id: int) -> Iterator[str]:
    """When its container could not use its GPUs though they were well, as far as past conditions are kept."""
    scope = f"C.{contract_id}"
    for past in reversed(conditions.past(tx, conditions.PAST_ROWS)):
        if (past.condition.problem.code, past.condition.scope) == (fitness.LOST_INSIDE, scope):
            yield _line(past.since, f"programs inside could not use its GPUs any more [{fitness.LOST_INSIDE}]")
            yield _line(past.until, "programs inside may use its GPUs again, or it has stopped")
    since = fitness.lost_inside(conditions.all_open(tx)).get(contract_id)
    if since is not None:
        yield _line(since, fitness.inside_words(contract_id, since))


def _now(status: WorkloadStatus | None) -> list[str]:
    if status is None:
        return []
    told = f": {status.status_msg}" if status.status_msg else ""
    lines = [_line(status.as_of, f"{_STATES.get(status.state, f'it is {status.state}')}{told}")]
    if status.exit_code is not None:
        lines.append(_line(status.finished_at or status.as_of, f"the process ended with exit code {status.exit_code}"))
    if status.problem is not None:
        problem = status.problem
        lines.append(_line(status.as_of, f"{problem.message} [{problem.code}]"))
        lines += [_line(status.as_of, text) for text in (problem.evidence, problem.remedy) if text]
    return lines


def _line(at: datetime, text: str) -> str:
    return f"{_time(at)} kaalia: {' '.join(text.split())}"


def _when(line: str) -> str:
    return line.partition(" kaalia: ")[0]


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"
