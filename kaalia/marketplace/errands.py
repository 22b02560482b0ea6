"""One-shot requests to machines whose results somebody waits for."""

import asyncio
import contextlib
import secrets
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace import liveness, machines
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import tasks
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import TaskRequest, TaskResult

WAIT_S = 15.0
"""A machine that is well answers within a second, and after 7 s at the latest."""
DEADLINE = timedelta(seconds=WAIT_S)
KEPT = timedelta(hours=1)
LOOK_EVERY_S = 1.0
"""A result that another process stored rings no bell here."""


def new_id() -> str:
    """Unguessable."""
    return secrets.token_urlsafe(32)


async def post(tx: AsyncConnection, machine_id: int, task: TaskRequest, now: datetime) -> None:
    """Into the machine's desired state. Ring the machine's bell after the commit."""
    await tx.execute(sa.delete(tasks).where(tasks.c.created_at < (now - KEPT).timestamp()))
    row = {"task_id": task.task_id, "machine_id": machine_id, "document": document.encode(task)}
    await tx.execute(sa.insert(tasks).values(row | {"created_at": now.timestamp()}))
    await machines.bump(tx, machine_id)


async def check_online(context: Context, tx: AsyncConnection, machine_id: int, what: str) -> machines.MachineRecord:
    """The machine. Raises ApiError 409 `machine_offline`."""
    machine = await machines.get(tx, machine_id)
    if machine is None or not liveness.is_online(machine, context.clock.now(), context.settings):
        message = f"cannot {what}: machine {machine_id} is offline"
        raise ApiError(409, "machine_offline", message, remedy="Try again when it is back; what runs there goes on")
    return machine


async def result(context: Context, task_id: str, what: str) -> str:
    """The text of a task's result, as soon as it is there.

    Raises ApiError 504 `machine_late`, or 409 with the machine's own code.
    """
    bell = context.task_bells.setdefault(task_id, asyncio.Event())
    try:
        async with asyncio.timeout(WAIT_S):
            while (found := await _look(context, task_id)) is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await bell.wait()
    except TimeoutError:
        message = f"cannot {what}: the machine has not answered within {WAIT_S:.0f} s"
        raise ApiError(504, "machine_late", message, remedy="Try again in a minute") from None
    finally:
        context.task_bells.pop(task_id, None)
    if found.problem is not None:
        raise ApiError(409, found.problem.code, found.problem.message, remedy=found.problem.remedy)
    return found.text


async def _look(context: Context, task_id: str) -> TaskResult | None:
    async with context.engine.begin() as tx:
        text = await tx.scalar(sa.select(tasks.c.result).where(tasks.c.task_id == task_id))
    return None if text is None else document.decode(TaskResult, text)
