"""When this marketplace itself was away: machines cannot help it, so it costs none of them anything.

It writes down each half a minute that it is there. What is missing at its next start, or after it slept, was its own.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts.reliability import WINDOW
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import availability_tables as tables
from kaalia.marketplace.db.tables import settings
from kaalia.model.availability import Span

ALIVE_AT = "alive_at"
RECORD_S = 30.0
SHORTEST = timedelta(seconds=60)
"""Two of these records: less cannot be told from none."""


async def look(context: Context) -> None:
    """It is there. Call it before machines are answered, and every few seconds."""
    now, monotonic_s = context.clock.now(), context.clock.monotonic_s()
    last = context.looked
    if last is not None:
        slept = now - last[0] - timedelta(seconds=monotonic_s - last[1])
        if slept < SHORTEST and (now - last[0]).total_seconds() < RECORD_S:
            return
    async with context.engine.begin() as tx:
        alive_at = await _alive_at(tx) if last is None else last[0]
        passed = now - alive_at if alive_at is not None else timedelta(0)
        was_away = passed if last is None else passed - timedelta(seconds=monotonic_s - last[1])
        known = await tx.scalar(sa.select(sa.func.max(tables.away.c.end_at)))
        is_new = alive_at is not None and (known is None or known <= alive_at.timestamp())
        if alive_at is not None and is_new and was_away >= SHORTEST:
            await tx.execute(sa.insert(tables.away).values(begin_at=alive_at.timestamp(), end_at=now.timestamp()))
        await tx.execute(sa.delete(tables.away).where(tables.away.c.end_at < (now - WINDOW).timestamp()))
        await _put_alive(tx, now)
        rows = await tx.execute(sa.select(tables.away).order_by(tables.away.c.begin_at))
        context.away = tuple(Span(from_epoch(row.begin_at), from_epoch(row.end_at)) for row in rows)
    context.looked = (now, monotonic_s)


async def _alive_at(tx: AsyncConnection) -> datetime | None:
    text = await tx.scalar(sa.select(settings.c.value).where(settings.c.key == ALIVE_AT))
    return None if text is None else from_epoch(float(text))


async def _put_alive(tx: AsyncConnection, now: datetime) -> None:
    value = repr(now.timestamp())
    changed = await tx.execute(sa.update(settings).where(settings.c.key == ALIVE_AT).values(value=value))
    if changed.rowcount == 0:
        await tx.execute(sa.insert(settings).values(key=ALIVE_AT, value=value))
