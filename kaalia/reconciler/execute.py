"""Do one action: write the intent, call the runtime, write what came of it. Nothing here decides.

Each action returns what is seen of the workload afterwards (None: proven absent). Errors leave as they come, with the
intent still open: the next look at reality, or `fail`, closes it.
"""

from dataclasses import replace

from kaalia.contracts import image
from kaalia.errors import Problem, WorkloadError
from kaalia.model.machine import MachineReport
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
from kaalia.reconciler.launch import Tools, launch, start_now
from kaalia.reconciler.renew import leave_older, renew
from kaalia.runtime.base import ALIVE, Observed, ObservedState


async def execute(
    tools: Tools, action: Action, row: WorkloadStatus | None, sight: Observed | None, report: MachineReport | None
) -> Observed | None:
    """Do it. `sight` is what was seen before. Raises WorkloadError, ContractError, MarketplaceError, StoreError."""
    match action:
        case Nothing():
            return sight
        case Record():
            await tools.ledger.settle(action.status, action.frees, sight=sight)
            return sight
        case Launch() | Renew():
            return await _make(tools, action, row, report)
        case Start():
            return await _start(tools, action, row, sight)
        case Restart():
            return await _restart(tools, action, row, sight)
        case Stop():
            return await _stop(tools, action, row)
        case Remove():
            return await _remove(tools, action, row)
        case Clear() | Lose():
            return await _clear(tools, action, row)


async def fail(
    tools: Tools, action: Launch | Start | Restart | Renew, row: WorkloadStatus | None, problem: Problem
) -> Observed | None:
    """Give up on a launch or start. A container that never ran goes; one that holds the renter's data stays."""
    contract = action.contract
    if isinstance(action, Renew):
        return await leave_older(tools, action, row, problem)
    contract_id, generation = contract.contract_id, contract.generation
    failed = status.failed(contract_id, generation, row, problem, tools.clock.now())
    failed = replace(failed, restarts_done=contract.restart_count)
    observed = None if isinstance(action, Launch) else await tools.runtime.inspect(contract_id)
    if observed is None or observed.state is ObservedState.CREATED:
        await tools.runtime.remove(contract_id)
        await _prove_gone(tools, contract_id)
        await tools.ledger.settle(status.forget(failed), Frees.ALL, problem.code)
        return None
    if observed.state not in ALIVE:
        failed = replace(failed, container_id=observed.container_id)
        await tools.ledger.settle(failed, Frees.GPUS, problem.code, sight=observed)
    return observed


def trying_again(
    tools: Tools,
    action: Launch | Start | Restart | Renew,
    row: WorkloadStatus | None,
    sight: Observed | None,
    wait_s: float,
) -> WorkloadStatus:
    """What is told of a launch or start that did not work and waits for another try."""
    if isinstance(action, Renew):
        words = f"loading {image.shown(action.contract.spec.image)}: next attempt in {wait_s:.0f} s"
        return status.renewing(action.contract, row, action.before, action.gpu_uuids, tools.clock.now(), words)
    state = WorkloadState.PULLING if isinstance(action, Launch) else WorkloadState.STARTING
    waiting = status.preparing(action.contract, row, action.gpu_uuids, state, tools.clock.now(), sight)
    return replace(waiting, status_msg=f"{waiting.status_msg}: next attempt in {wait_s:.0f} s")


async def _make(
    tools: Tools, action: Launch | Renew, row: WorkloadStatus | None, report: MachineReport | None
) -> Observed | None:
    if report is None:
        raise WorkloadError("machine_unknown", "cannot launch: the machine was not looked at yet")
    if isinstance(action, Renew):
        return await renew(tools, action, row, report)
    return await launch(tools, action, row, report)


async def _start(tools: Tools, action: Start, row: WorkloadStatus | None, sight: Observed | None) -> Observed:
    starting = _starting(tools, action, row, sight)
    await tools.ledger.intend("start", starting, action.gpu_uuids, sight, action.contract.restart_count)
    tools.checkpoint("start.intended")
    async with tools.starts:
        return await start_now(tools, action.contract, starting)


async def _restart(tools: Tools, action: Restart, row: WorkloadStatus | None, sight: Observed | None) -> Observed:
    starting = _starting(tools, action, row, sight)
    starting = replace(starting, status_msg=starting.status_msg.replace("starting", "rebooting", 1))
    count = action.contract.restart_count
    await tools.ledger.intend("restart", starting, action.gpu_uuids, restart_count=count)
    tools.checkpoint("stop.intended")
    await tools.runtime.stop(action.contract.contract_id, tools.settings.stop_grace_s)
    tools.checkpoint("stop.done")
    # Stopping may take long: a reboot that was asked for meanwhile is done with this one.
    count = await tools.ledger.asked_restarts(action.contract)
    return await start_now(tools, replace(action.contract, restart_count=count), starting)


def _starting(
    tools: Tools, action: Start | Restart, row: WorkloadStatus | None, sight: Observed | None
) -> WorkloadStatus:
    now = tools.clock.now()
    return status.preparing(action.contract, row, action.gpu_uuids, WorkloadState.STARTING, now, sight)


async def _stop(tools: Tools, action: Stop, row: WorkloadStatus | None) -> Observed | None:
    ids = (action.contract_id, action.generation)
    await tools.ledger.intend("stop", status.stopping(*ids, row, tools.clock.now()))
    tools.checkpoint("stop.intended")
    await tools.runtime.stop(action.contract_id, tools.settings.stop_grace_s)
    tools.checkpoint("stop.done")
    observed = await tools.runtime.inspect(action.contract_id)
    if observed is not None and observed.state in ALIVE:
        raise WorkloadError(
            "stop_stuck",
            f"cannot stop {observed.name}: it is still {observed.state}",
            remedy="a process may hang in the driver: look for state D in `ps`, and reboot the machine if it stays",
        )
    if observed is not None:
        stopped = status.stopped(*ids, row, observed, action.reason, tools.clock.now())
        stopped = replace(stopped, problem=action.problem)
        await tools.ledger.settle(stopped, Frees.GPUS, sight=observed)
    tools.checkpoint("stop.recorded")
    return observed


async def _remove(tools: Tools, action: Remove, row: WorkloadStatus | None) -> Observed | None:
    ids = (action.contract_id, action.generation)
    await tools.ledger.intend("remove", status.removing(*ids, row, tools.clock.now()))
    tools.checkpoint("remove.intended")
    await tools.runtime.remove(action.contract_id)
    tools.checkpoint("remove.done")
    await _prove_gone(tools, action.contract_id)
    now = tools.clock.now()
    await tools.ledger.settle(status.ended(*ids, row, now), Frees.ALL)
    tools.checkpoint("remove.recorded")
    return None


async def _prove_gone(tools: Tools, contract_id: int) -> None:
    """Nothing is given back on the engine's promise alone. Raises WorkloadError `remove_stuck`."""
    observed = await tools.runtime.inspect(contract_id)
    if observed is not None:
        raise WorkloadError(
            "remove_stuck",
            f"cannot remove {observed.name}: it is still {observed.state}",
            remedy="see `journalctl -u docker` of the machine",
        )


async def _clear(tools: Tools, action: Clear | Lose, row: WorkloadStatus | None) -> Observed | None:
    """Only a second, single look proves the absence. Its network is still there, and holds the subnet until it goes."""
    contract_id = action.status.contract_id if isinstance(action, Clear) else action.contract_id
    observed = await tools.runtime.inspect(contract_id)
    if observed is None:
        if row is not None:
            await tools.ledger.intend("remove", row)
        await tools.runtime.remove(contract_id)
        if isinstance(action, Clear):
            await tools.ledger.settle(action.status, Frees.ALL)
        else:
            lost = status.lost(contract_id, action.generation, row, tools.clock.now())
            await tools.ledger.settle(lost, Frees.ALL, "workload_lost")
    return observed
