"""A new generation of an instance: recycle makes it anew from a fresh pull of its image.

The machine keeps the container that is there until the new image has arrived; GPUs, ports and the contract stay.
"""

from dataclasses import replace

from kaalia.contracts.contract import Contract
from kaalia.marketplace import instances
from kaalia.marketplace.context import Context
from kaalia.marketplace.routing import Caller
from kaalia.wire import document


async def recycle(context: Context, caller: Caller, instance_id: int) -> None:
    """Make the container anew, of the same image and options; what it holds besides its volumes is lost.

    A request that finds an earlier one still to be done is the same one, since clients repeat requests. What is stopped
    is made anew at its next start.

    Raises ApiError 404 `no_such_instance`, 400 `contract_expired`.
    """
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await instances.owned(tx, caller, instance_id)
        contract = document.decode(Contract, row.document)
        instances.check_not_expired("recycle", contract, now)
        status = instances.status_of(row)
        if status is None or status.answered < contract.generation:
            return
        await instances.change(tx, row, replace(contract, generation=contract.generation + 1), now)
    context.machine_bells.ring(row.machine_id)
