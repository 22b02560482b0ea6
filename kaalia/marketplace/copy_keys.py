"""Keys that are taken away from an account or an instance, and by which a door for copies may still be open.

The machines that may have such doors are told with their next desired state; nobody waits for it.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace import accounts, errands, instance_keys
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.copy_tables import copy_notes
from kaalia.marketplace.db.tables import contracts, volumes
from kaalia.model.copying import DoorOrder, Holder, HolderKind
from kaalia.wire.protocol import TaskRequest, Verb

GRANTED = timedelta(hours=1, minutes=5)
"""A door's keys are good for an hour; machines' clocks differ."""


async def of(tx: AsyncConnection, user_id: int, holder: Holder) -> list[str]:
    """Who may copy: the account's keys, and for an instance those that were attached to it."""
    lines = [str(one["public_key"]) for one in await accounts.ssh_keys_of(tx, user_id)]
    if holder.kind is HolderKind.INSTANCE:
        lines += await instance_keys.lines(tx, holder.number)
    return lines


async def withdraw(tx: AsyncConnection, user_id: int, lines: Collection[str], now: datetime) -> set[int]:
    """To be called when these are gone; ring the bells of the machines that it returns after the commit."""
    told: set[int] = set()
    for holder, machine_id in await _recent(tx, user_id, now):
        left = {_plain(one) for one in await of(tx, user_id, holder)}
        gone = tuple(one for one in dict.fromkeys(map(_plain, lines)) if one not in left)
        if not gone:
            continue
        number = holder.number if holder.kind is HolderKind.INSTANCE else 0
        order = DoorOrder(holder, gone)
        task = TaskRequest(errands.new_id(), Verb.WITHDRAW_KEYS, number, now + GRANTED, door=order)
        await errands.post(tx, machine_id, task, now)
        told.add(machine_id)
    return told


def ring(context: Context, machine_ids: Collection[int]) -> None:
    for machine_id in machine_ids:
        context.machine_bells.ring(machine_id)


async def _recent(tx: AsyncConnection, user_id: int, now: datetime) -> list[tuple[Holder, int]]:
    """The account's own holders that were copied from or to while a grant may last, with their machines."""
    found = list[tuple[Holder, int]]()
    for kind, table in ((HolderKind.INSTANCE, contracts), (HolderKind.VOLUME, volumes)):
        name = sa.literal(f"{kind}.") + sa.cast(table.c.id, sa.String)
        query = sa.select(table.c.id, table.c.machine_id).join(copy_notes, copy_notes.c.holder == name)
        query = query.where(table.c.user_id == user_id, copy_notes.c.said_at > (now - GRANTED).timestamp())
        found += [(Holder(kind, int(one.id)), int(one.machine_id)) for one in await tx.execute(query)]
    return found


def _plain(line: str) -> str:
    return " ".join(line.split()[:2])
