"""`defrag machines`: makes the offers fit the free GPUs, and says what is on offer before and after.

Any free GPUs make an offer here, wherever they are, so there are no holes between offers to close: what can lag behind
is the rows. What can be scattered is the GPUs themselves; nobody moves a tenant for it, so it is told, not changed.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import fitness, slicing
from kaalia.marketplace import listings
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.workload import WorkloadStatus
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class Layout:
    """What a machine could be rented as. `offers`: how many of each size; `largest_block`: neighbouring free GPUs."""

    free_gpus: int
    offers: dict[int, int]
    largest_block: int


async def defragment(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> tuple[Layout, Layout]:
    """Before and after."""
    before = await _layout(tx, machine, now)
    await listings.refresh_asks(tx, machine.id, now)
    return before, await _layout(tx, machine, now)


async def _layout(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> Layout:
    left = await listings.free(tx, machine, now)
    offers = Counter(record.num_gpus for record in await listings.of(tx, machine, left) if record.rentable)
    return Layout(left.gpus, dict(sorted(offers.items())), await _largest_block(tx, machine))


async def _largest_block(tx: AsyncConnection, machine: MachineRecord) -> int:
    gpus = machine.report.gpus if machine.report else ()
    query = sa.select(contracts.c.status).where(
        contracts.c.machine_id == machine.id, contracts.c.removed_at.is_(None), contracts.c.status.is_not(None)
    )
    statuses = [document.decode(WorkloadStatus, text) for text in await tx.scalars(query)]
    busy = {uuid for status in statuses if status.state in listings.HOLDS_GPUS for uuid in status.gpu_uuids}
    return slicing.largest_block(gpus, busy | set(fitness.of_gpus(machine.faults)))


def encode(machine_id: int, before: Layout, after: Layout) -> dict[str, Any]:
    """Sizes are texts: they are keys of a JSON object."""
    scattered = after.largest_block < max(after.offers, default=0)
    return {
        "machine_id": machine_id,
        "free_gpus": after.free_gpus,
        "offers_before": {str(size): count for size, count in before.offers.items()},
        "offers_after": {str(size): count for size, count in after.offers.items()},
        "largest_block": after.largest_block,
        "msg": "the largest offer spans GPUs that are no neighbours" if scattered else "no offer is scattered",
    }
