"""What renters report of machines, for the owners to read. Only who has rented there may, and a few times a day."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.marketplace.db.tables import contracts, machine_reports
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.standing import RenterReport
from kaalia.wire.error import ApiError

PROBLEM_MAX_CHARS = 80
MESSAGE_MAX_CHARS = 2000
A_DAY_MAX = 5
"""Of one renter about one machine."""
SHOWN_MAX = 100
TOLD_MAX = 5


async def add(
    tx: AsyncConnection, user_id: int, machine: MachineRecord | None, body: dict[str, Any], now: datetime
) -> int:
    """The report's id. Raises ApiError 404 `no_such_machine`, 400 `invalid_args`, 429 `too_many_reports`."""
    if machine is None or machine.deleted_at is not None or not await _has_rented(tx, user_id, machine):
        message = "cannot report this machine: it is none that this account has rented"
        raise ApiError(404, "no_such_machine", message, remedy="`vastai show instances` names the machines of yours")
    problem = _text("problem", body.get("problem"), PROBLEM_MAX_CHARS)
    text = _text("message", body.get("message"), MESSAGE_MAX_CHARS)
    mine = sa.and_(machine_reports.c.machine_id == machine.id, machine_reports.c.user_id == user_id)
    today = machine_reports.c.created_at > (now - timedelta(days=1)).timestamp()
    if (await tx.scalar(sa.select(sa.func.count()).where(mine, today)) or 0) >= A_DAY_MAX:
        message = f"cannot report machine {machine.id}: this account has done so {A_DAY_MAX} times within a day"
        raise ApiError(429, "too_many_reports", message, remedy="Wait a day, or rent another machine")
    row = {"machine_id": machine.id, "user_id": user_id, "problem": problem, "message": text}
    made = sa.insert(machine_reports).values(**row, created_at=now.timestamp()).returning(machine_reports.c.id)
    return int((await tx.execute(made)).scalar_one())


async def newest(tx: AsyncConnection, machine_id: int) -> list[dict[str, Any]]:
    """The most recent reports, newest first. Who wrote them is not told."""
    query = sa.select(machine_reports).where(machine_reports.c.machine_id == machine_id)
    rows = await tx.execute(query.order_by(machine_reports.c.id.desc()).limit(SHOWN_MAX))
    return [{"problem": row.problem, "message": row.message, "created_at": row.created_at} for row in rows]


async def told(tx: AsyncConnection, machine_id: int) -> tuple[RenterReport, ...]:
    """The newest few, for the daemon of the machine, whose owner is told of them."""
    query = sa.select(machine_reports).where(machine_reports.c.machine_id == machine_id)
    rows = await tx.execute(query.order_by(machine_reports.c.id.desc()).limit(TOLD_MAX))
    return tuple(RenterReport(row.id, row.problem, row.message, from_epoch(row.created_at)) for row in rows)


async def counts(tx: AsyncConnection, machine_ids: Collection[int]) -> dict[int, int]:
    query = sa.select(machine_reports.c.machine_id, sa.func.count().label("total"))
    rows = await tx.execute(
        query.where(machine_reports.c.machine_id.in_(machine_ids)).group_by(machine_reports.c.machine_id)
    )
    return {row.machine_id: int(row.total) for row in rows}


def reporters(machine_id: int, since: datetime) -> sa.ScalarSelect[int]:
    """How many different renters have reported it since then."""
    query = sa.select(sa.func.count(sa.distinct(machine_reports.c.user_id)))
    mine = (machine_reports.c.machine_id == machine_id, machine_reports.c.created_at > since.timestamp())
    return query.where(*mine).scalar_subquery()


async def _has_rented(tx: AsyncConnection, user_id: int, machine: MachineRecord) -> bool:
    """An owner's own rentals do not count: nobody reports himself."""
    query = sa.select(contracts.c.id).where(contracts.c.machine_id == machine.id, contracts.c.user_id == user_id)
    return machine.user_id != user_id and await tx.scalar(query.limit(1)) is not None


def _text(name: str, value: Any, longest: int) -> str:
    if isinstance(value, str) and 0 < len(value.strip()) <= longest:
        return value.strip()
    message = f"cannot report with {name}={str(value)[:40]!r}: it must be text of 1 to {longest} characters"
    raise ApiError(400, "invalid_args", message, remedy=f"Correct {name}")
