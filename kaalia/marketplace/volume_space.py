"""Disk that volumes were promised: it stays promised until the machine has proven the data gone."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace.db.tables import volumes


async def promised_bytes(tx: AsyncConnection, machine_id: int) -> int:
    return int(await tx.scalar(_sum().where(volumes.c.machine_id == machine_id)) or 0)


async def promised_everywhere(tx: AsyncConnection) -> dict[int, int]:
    """Bytes by machine; machines without volumes are left out."""
    query = _sum().add_columns(volumes.c.machine_id).group_by(volumes.c.machine_id)
    return {row.machine_id: int(row.size_bytes) for row in await tx.execute(query)}


def _sum() -> sa.Select[Any]:
    return sa.select(sa.func.sum(volumes.c.size_bytes).label("size_bytes")).where(volumes.c.removed_at.is_(None))
