"""What the daemon did for one contract, in plain words: the daemon's own part of the logs that a renter can ask for.

Names neither other contracts nor anything of the machine, and no environment.
"""

from datetime import datetime

from kaalia.contracts.contract import Contract
from kaalia.model.workload import WorkloadStatus
from kaalia.store import contracts, intents, workloads
from kaalia.store.database import Transaction
from kaalia.store.intents import Step

STEPS_MAX = 200


def tell(tx: Transaction, contract_id: int) -> str | None:
    """One line an event, oldest first; None for a contract that is not known here."""
    stored = [s for s in contracts.all_contracts(tx) if s.contract.contract_id == contract_id]
    if not stored:
        return None
    steps = intents.history(tx, contract_id, STEPS_MAX)
    lines = [
        *_agreement(stored[0].contract),
        *(line for step in steps for line in _step(step)),
        *_now(workloads.get(tx, contract_id)),
    ]
    if stored[0].missing_since is not None:
        lines.append(
            _line(stored[0].missing_since, "the marketplace no longer mentions this contract; it runs on for now")
        )
    return "".join(f"{line}\n" for line in lines)


def _agreement(contract: Contract) -> list[str]:
    spec = contract.spec
    lines = [_line(contract.start_at, f"contract {contract.contract_id}: {spec.image}, {spec.gpu_count} GPUs")]
    if contract.end_at is not None:
        lines.append(_line(contract.start_at, f"it ends at {_time(contract.end_at)}"))
    return lines


def _step(step: Step) -> list[str]:
    name = f"{step.kind} (generation {step.generation})"
    if step.closed_at is None:
        return [_line(step.opened_at, f"{name}: going on")]
    took_s = (step.closed_at - step.opened_at).total_seconds()
    return [_line(step.closed_at, f"{name}: {step.outcome or 'done'}, {took_s:.1f} s")]


def _now(status: WorkloadStatus | None) -> list[str]:
    if status is None:
        return []
    lines = [
        _line(status.as_of, f"now {status.state}: {status.status_msg}" if status.status_msg else f"now {status.state}")
    ]
    if status.exit_code is not None:
        lines.append(_line(status.finished_at or status.as_of, f"the process ended with exit code {status.exit_code}"))
    if status.problem is not None:
        problem = status.problem
        lines.append(_line(status.as_of, f"{problem.message} [{problem.code}]"))
        lines += [_line(status.as_of, text) for text in (problem.evidence, problem.remedy) if text]
    return lines


def _line(at: datetime, text: str) -> str:
    return f"{_time(at)} kaalia: {' '.join(text.split())}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"
