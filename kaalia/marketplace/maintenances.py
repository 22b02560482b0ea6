"""Windows of maintenance as the owner schedules and cancels them: read from requests, kept with the machine.

Renters with a live contract on the machine read of it on their instances; nothing is stopped for it.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import maintenance, reliability
from kaalia.contracts.maintenance import CATEGORIES, Window, open_windows
from kaalia.errors import ContractError
from kaalia.marketplace import machines
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.machines import MachineRecord
from kaalia.wire.error import ApiError

START_MAX = datetime(3000, 1, 1, tzinfo=UTC)
"""Later starts are no dates: far enough from the last one that can be written for any window to end before it."""


def read(body: dict[str, Any], now: datetime) -> Window:
    """The body of `schedule maint`. Raises ApiError 400 `invalid_args` that names the field."""
    start_at = _start(body.get("sdate"))
    hours = _number(body.get("duration"))
    greatest = maintenance.LENGTH_MAX.total_seconds() / 3600
    if hours is None or not 0 < hours <= greatest:
        cause = f"duration={_quoted(body.get('duration'))} is no number of hours above 0 and up to {greatest:g}"
        raise _invalid(f"cannot schedule maintenance: {cause}", "Give it with --duration, such as 1.5")
    category = body.get("maintenance_category") or CATEGORIES[0]
    if not isinstance(category, str) or category not in CATEGORIES:
        cause = f"maintenance_category={_quoted(category)} is unknown"
        raise _invalid(f"cannot schedule maintenance: {cause}", f"Use one of {', '.join(CATEGORIES)}")
    return Window(start_at, start_at + timedelta(hours=hours), now, category)


async def schedule(tx: AsyncConnection, machine: MachineRecord, window: Window, now: datetime) -> int:
    """Keep a window, and tell the daemon; how many renters have a live contract on the machine.

    The same window again changes nothing: clients repeat requests. Raises ContractError `maintenance_past` or
    `maintenance_invalid`, ApiError 409 `maintenance_conflict`. The machine's row is locked; ring its bell after the
    commit.
    """
    known = open_windows(machine.windows, now)
    if not any(replace(window, scheduled_at=one.scheduled_at) == one for one in known):
        try:
            maintenance.check(window, known, now)
        except ContractError as error:
            if error.code != "maintenance_conflict":
                raise
            raise ApiError(409, error.code, error.problem.message, remedy=error.problem.remedy) from error
        await machines.put_windows(tx, machine.id, (*_past(machine, now), *known, window))
    live = (contracts.c.machine_id == machine.id, contracts.c.ended_at.is_(None), contracts.c.removed_at.is_(None))
    renters = sa.select(sa.func.count(sa.distinct(contracts.c.user_id))).where(*live)
    return int((await tx.execute(renters.where(contracts.c.user_id != machine.user_id))).scalar_one())


async def cancel(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> int:
    """Forget all windows; how many there were. None is no error: clients repeat requests."""
    count = len(open_windows(machine.windows, now))
    await machines.put_windows(tx, machine.id, _past(machine, now))
    return count


def _past(machine: MachineRecord, now: datetime) -> tuple[Window, ...]:
    """Those that are over, as long as a silence in them may count: a machine may not have come back since."""
    return tuple(one for one in machine.windows if now - reliability.WINDOW < one.end_at <= now)


def _start(value: Any) -> datetime:
    """Epoch seconds as a number or text, or ISO 8601, UTC unless it names a zone."""
    try:
        at = _moment(value)
    except (ValueError, OverflowError, OSError):
        at = None
    if at is not None and from_epoch(0) <= at <= START_MAX:
        return at
    cause = f"sdate={_quoted(value)} is no date"
    raise _invalid(f"cannot schedule maintenance: {cause}", "Give seconds since 1970 or 2026-12-01T09:00:00Z")


def _moment(value: Any) -> datetime | None:
    """Raises ValueError, OverflowError or OSError."""
    epoch = _number(value)
    if epoch is not None:
        return from_epoch(epoch)
    if not isinstance(value, str):
        return None
    at = datetime.fromisoformat(value)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


def _number(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _quoted(value: Any) -> str:
    return repr(str(value)[:40]) if isinstance(value, str) else str(value)[:40]


def _invalid(message: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", message, remedy=remedy)
