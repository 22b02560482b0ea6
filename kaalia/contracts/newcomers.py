"""What keeps a contract out that the machine has done nothing for yet: refused for good, or waiting to be admitted."""

from collections.abc import Iterable
from datetime import datetime

from kaalia.contracts import admission, maintenance
from kaalia.contracts.contract import OWN_KINDS, ContractKind, Desired, is_expired
from kaalia.contracts.wish import Held, Machine
from kaalia.errors import Problem
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState


def why_waiting(one: Held, machine: Machine, now: datetime) -> str | None:
    """In words for the renter; None: it may come in."""
    if machine.report is None:
        return "scheduling: the machine is still being looked at"
    window = maintenance.current(machine.windows, now)
    if window is not None and one.contract.kind is not ContractKind.SELFTEST:
        return f"scheduling: the owner works on the machine {maintenance.words(window)}"
    if one.is_local:
        return None
    if one.missing_since is not None:
        return "scheduling: the marketplace does not mention this contract any more"
    if machine.is_cordoned and one.contract.kind in OWN_KINDS:
        return None
    return f"scheduling: {machine.closed_because}" if machine.closed_because else None


def refusal(one: Held, machine: Machine, now: datetime) -> Problem | None:
    """Why a new contract is refused. A refusal stays for its generation: the renter was told."""
    contract, status = one.contract, one.workload
    is_refused = status and status.state is WorkloadState.REJECTED and status.generation == contract.generation
    if status and is_refused:
        return status.problem
    if is_expired(contract, now):
        return Problem("contract_expired", f"cannot start: the contract ended at {contract.end_at}")
    if overlap := maintenance.overlap(contract, machine.windows, now):
        return overlap
    return None if one.is_local else admission.refusal(contract, machine.house, now)


def over_disk(one: Held, report: MachineReport | None, disk_bytes: int) -> Problem | None:
    """The disk of all contracts together (`disk_bytes` so far) never exceeds the disk of the machine.

    At the first look at a contract also not what others leave of it: that changes, and who waits stays.
    """
    if report is None or report.disk is None:
        return None
    others_bytes = report.disk.others_bytes if one.workload is None else 0
    left = report.disk.total_bytes - (others_bytes or 0) - disk_bytes
    if one.contract.spec.disk_bytes <= left:
        return None
    return Problem(
        "disk_exhausted",
        f"cannot give {one.contract.spec.disk_bytes} bytes of disk: {max(left, 0)} are not promised yet",
        remedy="rent with a smaller disk, or on another machine",
    )


def jobs_left(contracts: Iterable[Held], machine: Machine) -> int:
    """How many default jobs more may be admitted: one a GPU. So that nobody fills the machine with them for nothing."""
    total = max(len(machine.report.gpus), 1) if machine.report else 0
    jobs = [one for one in contracts if one.contract.kind is ContractKind.DEFAULT_JOB and not one.is_new]
    return total - sum(one.contract.desired is not Desired.ENDED for one in jobs)
