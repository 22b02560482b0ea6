"""Whether the machine is drained, and what holds it: read from the store."""

from datetime import datetime

from kaalia.contracts import cordon
from kaalia.contracts.contract import Contract
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.store import contracts, enrolment, maintenance, workloads
from kaalia.store.database import Transaction
from kaalia.wire import contract as renters
from kaalia.wire.local import DrainStatus, Holder


def read(tx: Transaction, now: datetime) -> DrainStatus:
    """What is true at `now`."""
    stored, statuses = maintenance.get_cordon(tx), workloads.all_workloads(tx)
    placed = stored.cordon if stored and cordon.is_up(stored.cordon, now) else None
    # Without a marketplace there is nobody who admits anything, so nobody has to take the cordon in.
    is_obeyed = (stored is not None and stored.is_obeyed) or enrolment.get(tx) is None
    holders = tuple(
        _holder(one.contract, statuses.get(one.contract.contract_id), now)
        for one in contracts.all_contracts(tx)
        if cordon.holds(one.contract, statuses.get(one.contract.contract_id), now)
    )
    is_in_force = placed is not None and is_obeyed
    return DrainStatus(now, placed, is_in_force, not holders and (placed is None or is_obeyed), holders)


def _holder(contract: Contract, status: WorkloadStatus | None, now: datetime) -> Holder:
    shown = renters.states(contract, status, online=True, now=now).actual
    state = status.state if status else WorkloadState.WAITING
    return Holder(contract.contract_id, contract.kind, state, shown, contract.desired, contract.end_at)
