"""What renters read of copies, in the message of the instance: the machines' words, and the marketplace's warning."""

from collections.abc import Collection
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace.db.copy_tables import copy_notes
from kaalia.model.copying import CopyStatus, Holder, HolderKind

SHOWN = timedelta(hours=1)
"""How long the last word on a copy stands there."""
TEXT_MAX = 500


async def record(tx: AsyncConnection, machine_id: int, status: CopyStatus, now: datetime) -> None:
    """Keep a machine's newest word on a copy from or to its own."""
    text = status.text if status.problem is None else f"{status.text}: {status.problem.message}"
    mine = sa.and_(copy_notes.c.holder == str(status.holder), copy_notes.c.machine_id == machine_id)
    await tx.execute(sa.update(copy_notes).where(mine).values(text=_short(text), said_at=now.timestamp()))


async def machine_of(tx: AsyncConnection, holder: Holder) -> int | None:
    """Which machine was asked for the newest copy from or to a holder; None: none was."""
    query = sa.select(copy_notes.c.machine_id).where(copy_notes.c.holder == str(holder))
    found: int | None = await tx.scalar(query)
    return found


async def notes(tx: AsyncConnection, instance_ids: Collection[int], now: datetime) -> dict[int, str]:
    """What is told of each instance's newest copy; of most nothing."""
    names = {str(Holder(HolderKind.INSTANCE, number)): number for number in instance_ids}
    recent = sa.and_(copy_notes.c.holder.in_(names), copy_notes.c.said_at > (now - SHOWN).timestamp())
    rows = await tx.execute(sa.select(copy_notes).where(recent))
    return {names[row.holder]: "; ".join(part for part in (row.text, row.warning) if part) for row in rows}


async def put(tx: AsyncConnection, holder: Holder, machine_id: int, text: str, warning: str, now: datetime) -> None:
    """Begin anew: what was told of an earlier copy is forgotten."""
    await tx.execute(sa.delete(copy_notes).where(copy_notes.c.holder == str(holder)))
    row = {"holder": str(holder), "machine_id": machine_id, "text": _short(text), "warning": warning}
    await tx.execute(sa.insert(copy_notes).values(row | {"said_at": now.timestamp()}))


def _short(text: str) -> str:
    return " ".join(text.split())[:TEXT_MAX]
