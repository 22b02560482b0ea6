"""What renters report of machines, for the owners to read. Who rents there, or did lately, may: a few times a day."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts.verification_news import DATA
from kaalia.marketplace.db.tables import contracts, machine_reports, users
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.standing import RenterReport
from kaalia.wire.error import ApiError

PROBLEM_MAX_CHARS = 80
MESSAGE_MAX_CHARS = 2000
_RULE = DATA["reports"]
A_DAY_MAX = int(_RULE["a_day"])
SHOWN_MAX = 100
TOLD_MAX = 5


async def add(
    tx: AsyncConnection, user_id: int, machine: MachineRecord | None, body: dict[str, Any], now: datetime
) -> int:
    """The report's id. Raises ApiError 404 `no_such_machine`, 400 `invalid_args`, 429 `too_many_reports`."""
    if machine is None or machine.deleted_at is not None or not await _may(tx, user_id, machine, now):
        days = _RULE["after_days"]
        message = f"cannot report this machine: it is none that this account rents, or rented within {days} days"
        raise ApiError(404, "no_such_machine", message, remedy="`vastai show instances` names the machines of yours")
    problem = _text("problem", body.get("problem"), PROBLEM_MAX_CHARS)
    text = _text("message", body.get("message"), MESSAGE_MAX_CHARS)
    await tx.execute(sa.select(users.c.id).where(users.c.id == user_id).with_for_update())  # or many at once pass
    mine = sa.and_(machine_reports.c.machine_id == machine.id, machine_reports.c.user_id == user_id)
    today = machine_reports.c.created_at > (now - timedelta(days=1)).timestamp()
    if (await tx.scalar(sa.select(sa.func.count()).where(mine, today)) or 0) >= A_DAY_MAX:
        message = f"cannot report machine {machine.id}: this account has done so {A_DAY_MAX} times within a day"
        raise ApiError(429, "too_many_reports", message, remedy="Wait a day, or rent another machine")
    row = {"machine_id": machine.id, "user_id": user_id, "problem": problem, "message": text}
    made = sa.insert(machine_reports).values(**row, created_at=now.timestamp()).returning(machine_reports.c.id)
    report_id = int((await tx.execute(made)).scalar_one())
    newest = sa.select(machine_reports.c.id).where(mine).order_by(machine_reports.c.id.desc()).limit(_RULE["kept"])
    await tx.execute(sa.delete(machine_reports).where(mine, machine_reports.c.id.not_in(newest.scalar_subquery())))
    return report_id


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


async def _may(tx: AsyncConnection, user_id: int, machine: MachineRecord, now: datetime) -> bool:
    """An owner's own rentals do not count: nobody reports himself."""
    lately = contracts.c.ended_at > (now - timedelta(days=_RULE["after_days"])).timestamp()
    mine = (contracts.c.machine_id == machine.id, contracts.c.user_id == user_id)
    query = sa.select(contracts.c.id).where(*mine, sa.or_(contracts.c.ended_at.is_(None), lately))
    return machine.user_id != user_id and await tx.scalar(query.limit(1)) is not None


def _text(name: str, value: Any, longest: int) -> str:
    if isinstance(value, str) and 0 < len(text := _printable(value)) <= longest:
        return text
    message = f"cannot report with {name}={str(value)[:40]!r}: it must be text of 1 to {longest} characters"
    raise ApiError(400, "invalid_args", message, remedy=f"Correct {name}")


def _printable(text: str) -> str:
    """Without what moves a terminal's cursor, and what databases do not take: owners read it, and scripts of theirs."""
    return "".join(one for one in text if one.isprintable() or one in "\n\t").strip()
