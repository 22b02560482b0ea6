"""Which machine each GPU counts for: one proves no two machines, and a bar goes where the GPUs go.

UUIDs are what machines say, and renters see them: whoever names one that another machine has gets nothing by it, and
takes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.verification_news import DATA
from kaalia.marketplace import machines
from kaalia.marketplace.db.engine import insert_new
from kaalia.marketplace.db.verification_tables import gpu_holders as table
from kaalia.marketplace.machines import MachineRecord


@dataclass(frozen=True, slots=True)
class Claim:
    """`elsewhere`: GPUs that another machine has. `barred`: why the operator barred one that had them before."""

    elsewhere: int = 0
    barred: str = ""


async def claim(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> Claim:
    """Of all GPUs that it names; one question when nothing is new."""
    if machine.report is None or not machine.report.gpus:
        return Claim()
    wanted = sorted(gpu.uuid for gpu in machine.report.gpus)
    holders = await _holders(tx, wanted)
    missing = [uuid for uuid in wanted if holders.get(uuid) != machine.id]
    if not missing:
        return Claim()
    if machine.verified is None or not machine.verified.barred:
        # What a barred machine had stays written down.
        await tx.execute(sa.delete(table).where(table.c.machine_id == machine.id, table.c.uuid.not_in(wanted)))
    await insert_new(tx, table, [{"uuid": uuid, "machine_id": machine.id} for uuid in missing if uuid not in holders])
    holders = await _holders(tx, missing)
    others = {holder: await machines.get(tx, holder) for holder in set(holders.values()) - {machine.id}}
    left = [uuid for uuid in missing if _is_left(uuid, others.get(holders[uuid]), now)]
    for uuid in left:
        mine = sa.update(table).where(table.c.uuid == uuid, table.c.machine_id == holders[uuid])
        await tx.execute(mine.values(machine_id=machine.id))
    elsewhere = sum(holders[uuid] != machine.id for uuid in missing) - len(left)
    return Claim(elsewhere, _bar(others, {holders[uuid] for uuid in left}))


async def _holders(tx: AsyncConnection, uuids: list[str]) -> dict[str, int]:
    rows = await tx.execute(sa.select(table.c.uuid, table.c.machine_id).where(table.c.uuid.in_(uuids)))
    return {row.uuid: row.machine_id for row in rows}


def _is_left(uuid: str, holder: MachineRecord | None, now: datetime) -> bool:
    """Whether it is another machine's no more. None: that one is this machine itself."""
    if holder is None:
        return False
    silent = timedelta(hours=DATA["gpus"]["silent_h"])
    is_silent = holder.last_seen_at is None or now - holder.last_seen_at > silent
    is_named = holder.report is not None and any(gpu.uuid == uuid for gpu in holder.report.gpus)
    return holder.deleted_at is not None or is_silent or (holder.gpus_known and not is_named)


def _bar(others: Mapping[int, MachineRecord | None], left: set[int]) -> str:
    for number in sorted(left):
        holder = others[number]
        if holder is not None and holder.verified is not None and holder.verified.barred:
            return f"its GPUs are those of machine {number}: {holder.verified.barred}"
    return ""
