"""Put a newer generation of a contract in the place of an older one: recycle and update.

    pull ──▶ stop ──▶ remove the container ──▶ (next turn) create and start

The image comes first: what cannot be pulled leaves the older container as it is, running or not. GPUs, ports and the
network stay the contract's all the while.
"""

from dataclasses import replace

from kaalia.errors import Problem, WorkloadError
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.reconciler import status
from kaalia.reconciler.actions import Frees, Renew
from kaalia.reconciler.launch import Tools, pull, tagged
from kaalia.runtime.base import ALIVE, Observed


async def renew(tools: Tools, action: Renew, row: WorkloadStatus | None, report: MachineReport) -> Observed | None:
    """Make room for the newer generation, which is launched in the next turn. Every step may be repeated."""
    contract, before = await tagged(tools, action.contract, None, report), action.before
    async with tools.images.using(contract.spec.image):
        loading = status.renewing(contract, row, before, action.gpu_uuids, tools.clock.now())
        await tools.ledger.intend("recycle", loading, action.gpu_uuids)
        tools.checkpoint("renew.intended")
        await pull(tools, contract, loading)
        await _discard(tools, replace(action, contract=contract), row)
    return None


async def leave_older(tools: Tools, action: Renew, row: WorkloadStatus | None, problem: Problem) -> Observed | None:
    """Give up on the newer generation: what is there stays the contract's, and its renter is told why."""
    observed = await tools.runtime.inspect(action.contract.contract_id)
    if observed is None or observed.generation >= action.contract.generation:
        return observed  # it is gone already: the newer one is launched, or given up, by itself
    told = status.not_made(action.contract, row, observed, problem, tools.clock.now())
    frees = Frees.NOTHING if observed.state in ALIVE else Frees.GPUS
    await tools.ledger.settle(told, frees, problem.code, sight=observed)
    return observed


async def _discard(tools: Tools, action: Renew, row: WorkloadStatus | None) -> None:
    contract, older = action.contract, action.before.generation
    await tools.ledger.intend("recycle", status.removing(contract.contract_id, older, row, tools.clock.now()))
    tools.checkpoint("discard.intended")
    # Its processes may be writing to a volume, which outlives them.
    await tools.runtime.stop(contract.contract_id, tools.settings.stop_grace_s)
    await tools.runtime.discard(contract.contract_id)
    tools.checkpoint("discard.done")
    left = await tools.runtime.inspect(contract.contract_id)
    if left is not None:
        raise WorkloadError(
            "remove_stuck",
            f"cannot remove {left.name}: it is still {left.state}",
            remedy="see `journalctl -u docker` of the machine",
        )
    now = tools.clock.now()
    await tools.ledger.settle(status.preparing(contract, row, action.gpu_uuids, WorkloadState.CREATING, now))
    tools.checkpoint("discard.recorded")
