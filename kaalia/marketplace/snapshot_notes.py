"""How snapshots are doing, as their machines tell it, and the logins that these fetch once."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace import sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.snapshot_tables import snapshots
from kaalia.wire import document
from kaalia.wire.protocol import RegistryLoginReply, TaskResult

SHOWN = timedelta(hours=1)
"""After its end it stands in `status_msg` for so long."""
TOLD_MAX_CHARS = 1000
LOGINS = b"kaalia marketplace: logins of snapshots at rest"


async def login(context: Context, tx: AsyncConnection, machine_id: int, task_id: str) -> RegistryLoginReply | None:
    """For the machine that was asked, once. None: there is none, or it has been given."""
    mine = sa.and_(snapshots.c.task_id == task_id, snapshots.c.machine_id == machine_id)
    sealed = await tx.scalar(sa.select(snapshots.c.login).where(mine).with_for_update())
    if sealed is None:
        return None
    await tx.execute(sa.update(snapshots).where(mine).values(login=None))
    clear = sealing.unseal(context.signing_key, sealed, LOGINS)
    return None if clear is None else document.decode(RegistryLoginReply, clear)


async def record(tx: AsyncConnection, machine_id: int, task_id: str, result: TaskResult, now: datetime) -> bool:
    """What the machine tells of a snapshot; False: the task is none, or another has taken its place."""
    values: dict[str, Any] = {"told": _words(result)[:TOLD_MAX_CHARS]}
    if result.is_final:
        values |= {"finished_at": now.timestamp(), "login": None}
    mine = sa.and_(snapshots.c.task_id == task_id, snapshots.c.machine_id == machine_id)
    done = await tx.execute(sa.update(snapshots).where(mine, snapshots.c.finished_at.is_(None)).values(values))
    return bool(done.rowcount)


async def notes(tx: AsyncConnection, contract_ids: Collection[int], now: datetime) -> dict[int, str]:
    """By contract: how its snapshot is doing, or how it ended a while ago."""
    rows = await tx.execute(sa.select(snapshots).where(snapshots.c.contract_id.in_(contract_ids)))
    return {row.contract_id: text for row in rows if (text := _note(row, now))}


def _note(row: sa.Row[Any], now: datetime) -> str:
    if row.finished_at is None and now.timestamp() < row.deadline_at:
        return f"snapshot: {row.told}"
    ended_at = row.deadline_at if row.finished_at is None else row.finished_at
    if now.timestamp() >= ended_at + SHOWN.total_seconds():
        return ""
    return row.told if row.finished_at is not None else f"snapshot to {row.image}: the machine did not tell its end"


def _words(result: TaskResult) -> str:
    problem = result.problem
    if problem is None:
        return result.text
    return f"snapshot: {problem.message} [{problem.code}]. {problem.remedy}".rstrip(". ")
