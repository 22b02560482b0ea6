"""Deleting a machine on its owner's word, with all contracts; and giving back what contracts left on one.

The machine is told by tombstones and proves what is gone, as ever; only then is it turned away. Its row stays for the
books, and for an enrolment that brings it back.
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.lease import DELETABLE_AFTER
from kaalia.marketplace import increases, instances, listings, machines, volume_offers, volumes
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.verification_tables import benchmarks, selftests
from kaalia.marketplace.machines import MachineRecord
from kaalia.wire.error import ApiError


@dataclass(frozen=True, slots=True)
class Ended:
    """How many contracts of each kind were ended. `waiting`: ended ones whose removal the machine has yet to prove."""

    instances: int
    volumes: int
    waiting: int = 0

    @property
    def total(self) -> int:
        return self.instances + self.volumes


async def delete(tx: AsyncConnection, machine_id: int, now: datetime) -> Ended:
    """Take a machine out of all lists and end its contracts. Ring its bell after the commit."""
    await machines.lock(tx, machine_id)
    await machines.put_listing(tx, machine_id, None)
    await increases.follow(tx, machine_id, None, now)
    await volume_offers.unlist_of(tx, machine_id)
    ended = Ended(await instances.end_all(tx, machine_id, now), await volumes.end_all(tx, machine_id, now))
    for table in (benchmarks, selftests):
        await tx.execute(sa.delete(table).where(table.c.machine_id == machine_id))
    await tx.execute(sa.insert(tables.deleted_machines).values(machine_id=machine_id, deleted_at=now.timestamp()))
    await listings.refresh_asks(tx, machine_id, now)
    return ended


async def clean_up(tx: AsyncConnection, machine_id: int, now: datetime) -> Ended:
    """End what expired 48 h ago or earlier, and tell the machine again of what it has not removed yet.

    Ring its bell after the commit.
    """
    old_instances = await instances.delete_expired(tx, machine_id, now)
    old_volumes = await volumes.delete_expired(tx, machine_id, now - DELETABLE_AFTER, now)
    waiting = await _unproven(tx, machine_id)
    if waiting:
        await machines.bump(tx, machine_id)
    return Ended(old_instances, old_volumes, waiting)


async def turn_away(tx: AsyncConnection, machine: MachineRecord) -> None:
    """Raises ApiError 401 `machine_deleted` once a deleted machine knows it and has proven everything gone."""
    if machine.deleted_at is None or machine.applied_revision < machine.revision:
        return
    if await _unproven(tx, machine.id):
        return
    raise ApiError(
        401,
        "machine_deleted",
        f"cannot serve machine {machine.id}: its owner deleted it at {machine.deleted_at:%Y-%m-%d %H:%M} UTC",
        remedy="to rent it out again, stop the daemon, move state.db away, and enrol it with a new token and --recover",
    )


async def _unproven(tx: AsyncConnection, machine_id: int) -> int:
    count = 0
    for table in (tables.contracts, tables.volumes):
        query = sa.select(sa.func.count()).where(
            table.c.machine_id == machine_id, table.c.ended_at.is_not(None), table.c.removed_at.is_(None)
        )
        count += await tx.scalar(query) or 0
    return count
