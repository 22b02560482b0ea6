"""Sends scheduled requests when they are due, with the rights of their account, to the handlers of their routes.

A run is written down before it is sent, so that a crash loses one and none is sent twice. After an outage one run makes
up for all that were missed.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from kaalia.clock import from_epoch
from kaalia.contracts import schedule
from kaalia.errors import KaaliaError
from kaalia.marketplace import scheduled_requests
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.schedule_tables import scheduled_jobs
from kaalia.marketplace.db.tables import contracts, users
from kaalia.marketplace.routing import Caller
from kaalia.marketplace.scheduled import Row, times_of, wanted_of
from kaalia.service import answer_anyway

KEPT = timedelta(days=1)
"""A job whose end has come is shown for so long, with how its last run went."""
AT_ONCE = 8
"""Some requests wait seconds for an answer of their machine."""
TOLD_MAX_CHARS = 1000
MISSED = "missed: the marketplace was down when it was due, and until after its end"


async def run_due(context: Context) -> None:
    """Send what is due; forget what is over."""
    now = context.clock.now()
    await _forget(context, now)
    await asyncio.gather(*(_run_all(context, now) for _ in range(AT_ONCE)))


async def _run_all(context: Context, now: datetime) -> None:
    while (row := await _claim(context, now)) is not None:
        name = f"scheduled job {row.id}"
        told = await answer_anyway(name, _sent(context, row), lambda: "failed: an unexpected error of the marketplace")
        async with context.engine.begin() as tx:
            mine = scheduled_jobs.c.id == row.id
            await tx.execute(sa.update(scheduled_jobs).where(mine).values(told=told[:TOLD_MAX_CHARS]))


async def _claim(context: Context, now: datetime) -> Row | None:
    """The next job to be run now, with its next time written down already. What is too late is passed over."""
    due = scheduled_jobs.c.next_at <= now.timestamp()
    query = sa.select(scheduled_jobs).where(due).order_by(scheduled_jobs.c.next_at, scheduled_jobs.c.id)
    async with context.engine.begin() as tx:
        for row in (await tx.execute(query.with_for_update(skip_locked=True))).all():
            times = times_of(row)
            coming = schedule.next_at(times, now)
            is_worth = schedule.is_worth(times, from_epoch(row.next_at), now)
            values: dict[str, Any] = {"next_at": None if coming is None else coming.timestamp()}
            values |= {"last_at": now.timestamp(), "told": "sent"} if is_worth else {"told": MISSED}
            await tx.execute(sa.update(scheduled_jobs).where(scheduled_jobs.c.id == row.id).values(values))
            if is_worth:
                return row
    return None


async def _sent(context: Context, row: Row) -> str:
    """What came of it, in words."""
    try:
        wanted = wanted_of(context, row)
        async with context.engine.begin() as tx:
            is_host = (await tx.execute(sa.select(users.c.is_host).where(users.c.id == row.user_id))).scalar_one()
        answer = await scheduled_requests.send(context, Caller(row.user_id, is_host, key_id=0), wanted)
    except KaaliaError as error:
        return f"{error.problem.message} [{error.code}]. {error.problem.remedy}".rstrip(". ")
    return str(answer.get("msg") or answer.get("result_url") or "done")


async def _forget(context: Context, now: datetime) -> None:
    is_gone = sa.exists().where(contracts.c.id == scheduled_jobs.c.contract_id, contracts.c.ended_at.is_not(None))
    is_old = sa.and_(scheduled_jobs.c.next_at.is_(None), scheduled_jobs.c.end_time < (now - KEPT).timestamp())
    async with context.engine.begin() as tx:
        await tx.execute(sa.delete(scheduled_jobs).where(sa.or_(is_gone, is_old)))
