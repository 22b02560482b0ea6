"""Sends scheduled requests when they are due to the handlers of their routes, with the rights their API key has then.

A run is written down before it is sent, so that a crash loses one and none is sent twice. After an outage one run makes
up for all that were missed.
"""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import schedule
from kaalia.errors import KaaliaError
from kaalia.marketplace import scheduled_requests
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.schedule_tables import scheduled_jobs
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.routing import Caller
from kaalia.marketplace.scheduled import Row, authorise, key_of, times_of, wanted_of
from kaalia.service import answer_anyway, run_forever, side_by_side
from kaalia.wire.error import ApiError
from kaalia.wire.schedule import Wanted

EVERY_S = 10.0
KEPT = timedelta(days=1)
"""A job whose end has come is shown for so long, with how its last run went."""
AT_ONCE = 8
"""Some requests wait seconds for an answer of their machine."""
ACCOUNT_SHARE = 20
"""Of one account in a round: the rest of its jobs come with the next ones, so that those of others need not wait."""
TOLD_MAX_CHARS = 1000
FAILED = "failed: an unexpected error of the marketplace"
MISSED = "missed: the marketplace was down when it was due, and until after its end"


async def run(context: Context) -> None:
    """Until cancelled."""

    async def turn() -> None:
        await run_due(context)
        await asyncio.sleep(EVERY_S)

    await run_forever("scheduled runs", turn)


async def run_due(context: Context) -> None:
    """One round: send what is due; forget what is over."""
    now = context.clock.now()
    await _forget(context, now)
    turn = _Round(context, now)
    await side_by_side(*(turn.work() for _ in range(AT_ONCE)))


class _Round:
    """What is due at one moment, a share of it for each account."""

    def __init__(self, context: Context, now: datetime) -> None:
        self._context = context
        self._now = now
        self._claimed: Counter[int] = Counter()
        self._one = asyncio.Lock()

    async def work(self) -> None:
        """One worker's part: a job after the other, until none is due."""
        while (claimed := await self._claim()) is not None:
            row, is_worth = claimed
            if is_worth:
                told = await answer_anyway(f"scheduled job {row.id}", _sent(self._context, row), lambda: FAILED)
                async with self._context.engine.begin() as tx:
                    await _note(tx, row, told=told[:TOLD_MAX_CHARS])

    async def _claim(self) -> tuple[Row, bool] | None:
        """The next job, with its next time written down already, and whether it is not too late for this run."""
        async with self._one, self._context.engine.begin() as tx:
            row = (await tx.execute(self._next())).one_or_none()
            if row is None:
                return None
            self._claimed[row.user_id] += 1
            times = times_of(row)
            coming = schedule.next_at(times, self._now)
            is_worth = schedule.is_worth(times, from_epoch(row.next_at), self._now)
            values: dict[str, Any] = (
                {"last_at": self._now.timestamp(), "told": "sent"} if is_worth else {"told": MISSED}
            )
            await _note(tx, row, next_at=None if coming is None else coming.timestamp(), **values)
            return row, is_worth

    def _next(self) -> sa.Select[Any]:
        """Of one job: a request may be large, and due ones many."""
        had = [user_id for user_id, count in self._claimed.items() if count >= ACCOUNT_SHARE]
        due = sa.and_(scheduled_jobs.c.next_at <= self._now.timestamp(), scheduled_jobs.c.user_id.not_in(had))
        query = sa.select(scheduled_jobs).where(due).order_by(scheduled_jobs.c.next_at, scheduled_jobs.c.id)
        return query.limit(1).with_for_update(skip_locked=True)


async def _sent(context: Context, row: Row) -> str:
    """What came of it, in words."""
    try:
        wanted = wanted_of(context, row)
        async with context.engine.begin() as tx:
            caller = await _permitted(tx, row, wanted)
        if isinstance(caller, ApiError):
            return _words(caller)
        answer = await scheduled_requests.send(context, caller, wanted)
    except KaaliaError as error:
        return _words(error)
    return str(answer.get("msg") or answer.get("result_url") or "done")


async def _permitted(tx: AsyncConnection, row: Row, wanted: Wanted) -> Caller | ApiError:
    """Whoever may not ask any longer, by the key as it is now: the job ends, and this is why."""
    try:
        key = await key_of(tx, row)
        authorise(key, wanted)
    except ApiError as refusal:
        await _note(tx, row, next_at=None)
        return refusal
    return key.caller


def _words(error: KaaliaError) -> str:
    return f"{error.problem.message} [{error.code}]. {error.problem.remedy}".rstrip(". ")


async def _note(tx: AsyncConnection, row: Row, **values: Any) -> None:
    await tx.execute(sa.update(scheduled_jobs).where(scheduled_jobs.c.id == row.id).values(values))


async def _forget(context: Context, now: datetime) -> None:
    is_gone = sa.exists().where(contracts.c.id == scheduled_jobs.c.contract_id, contracts.c.ended_at.is_not(None))
    is_old = sa.and_(scheduled_jobs.c.next_at.is_(None), scheduled_jobs.c.end_time < (now - KEPT).timestamp())
    async with context.engine.begin() as tx:
        await tx.execute(sa.delete(scheduled_jobs).where(sa.or_(is_gone, is_old)))
