"""Logs of an instance, and commands among its files: a task for its machine, and the unguessable URL of the text.

The client asks that URL for about nine seconds and then gives up, so the answer is held until the text is there and
after eight seconds says in words why it is not.
"""

import asyncio
import contextlib
import secrets
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import command, log_filter
from kaalia.marketplace import liveness, machines
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import tasks
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import TaskRequest, TaskResult, Verb

HOLD_S = 8.0
"""From the request for logs to the answer at its URL, at the latest: the client gives up after nine."""
LOOK_EVERY_S = 1.0
"""A result that another process stored rings no bell here."""
DEADLINE = timedelta(seconds=60)
"""The machine's time: whoever opens the URL again still gets a late text."""
KEPT = timedelta(hours=1)
TAIL_DEFAULT = 1000
TAIL_MAX = 100_000
LATE = "kaalia: the machine has not answered yet; ask again in a few seconds\n"


async def request(tx: AsyncConnection, machine_id: int, contract_id: int, body: dict[str, Any], now: datetime) -> str:
    """Ask the machine for logs; returns the task id. Ring the machine's bell after the commit."""
    task = TaskRequest(
        task_id=secrets.token_urlsafe(32),
        verb=Verb.LOGS,
        contract_id=contract_id,
        deadline_at=now + DEADLINE,
        tail=_tail(body.get("tail")),
        filter=_filter(body.get("filter")),
        daemon_logs=str(body.get("daemon_logs", "")).lower() == "true",
    )
    return await put(tx, machine_id, task, now)


async def execute(tx: AsyncConnection, machine_id: int, contract_id: int, text: Any, now: datetime) -> str:
    """Ask the machine for a command, which is refused here already if it would be there; returns the task id.

    Raises ApiError, ContractError `command_refused` and `command_invalid`.
    """
    checked = check_command(text)
    task = TaskRequest(
        task_id=secrets.token_urlsafe(32),
        verb=Verb.EXECUTE,
        contract_id=contract_id,
        deadline_at=now + DEADLINE,
        command=checked,
    )
    return await put(tx, machine_id, task, now)


def check_command(text: Any) -> str:
    """The command. Raises ApiError 400 `invalid_args`, ContractError `command_refused` and `command_invalid`."""
    if not isinstance(text, str):
        raise ApiError(
            400,
            "invalid_args",
            f"cannot execute command={str(text)[:80]!r}: it must be text",
            remedy='Send {"command": "ls -l /root"}',
        )
    command.parse(text)
    return text


async def put(tx: AsyncConnection, machine_id: int, task: TaskRequest, now: datetime) -> str:
    """Give the machine a task; its id. Ring the machine's bell after the commit."""
    await tx.execute(sa.delete(tasks).where(tasks.c.created_at < (now - KEPT).timestamp()))
    await tx.execute(
        sa.insert(tasks).values(
            task_id=task.task_id,
            machine_id=machine_id,
            document=document.encode(task),
            created_at=now.timestamp(),
        )
    )
    await machines.bump(tx, machine_id)
    return task.task_id


async def read(context: Context, task_id: str) -> str:
    """The text, as soon as it is there; words instead when the machine is offline or late. 404 when unknown or old."""
    bell = context.task_bells.setdefault(task_id, asyncio.Event())
    try:
        text, left_s = await _look(context, task_id)
        while text is None and left_s > 0:
            await _ring_or_wait(bell, min(left_s, LOOK_EVERY_S))
            left_s -= LOOK_EVERY_S
            text, _ = await _look(context, task_id)
    finally:
        context.task_bells.pop(task_id, None)
    return LATE if text is None else text


async def _ring_or_wait(bell: asyncio.Event, timeout_s: float) -> None:
    # Not `wait_for`: in Python 3.11 that one loses a cancellation that comes together with a ring.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await bell.wait()


async def _look(context: Context, task_id: str) -> tuple[str | None, float]:
    """The text if there is one, and for how many seconds more an answer may be held."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = (await tx.execute(sa.select(tasks).where(tasks.c.task_id == task_id))).one_or_none()
        if row is None or from_epoch(row.created_at) < now - KEPT:
            raise ApiError(404, "no_such_blob", "cannot find this text: unknown, or older than an hour")
        if row.result is not None:
            return _text(document.decode(TaskResult, row.result)), 0.0
        machine = await machines.get(tx, row.machine_id)
    if machine is None or not liveness.is_online(machine, now, context.settings):
        return f"kaalia: machine {row.machine_id} is offline, so it cannot answer now\n", 0.0
    return None, HOLD_S - (now - from_epoch(row.created_at)).total_seconds()


def _text(result: TaskResult) -> str:
    if result.problem is None:
        return result.text
    told = f"kaalia: {result.problem.message} [{result.problem.code}]. {result.problem.remedy}".rstrip(". ")
    return f"{result.text}\n{told}\n".lstrip("\n")


def _tail(value: Any) -> int:
    """Lines from the end, as int or text; `all` and more than TAIL_MAX are TAIL_MAX."""
    if value is None or value == "":
        return TAIL_DEFAULT
    if value == "all":
        return TAIL_MAX
    try:
        lines = int(value) if not isinstance(value, bool) else -1
    except (TypeError, ValueError, OverflowError):
        lines = -1
    if lines < 0:
        raise ApiError(
            400,
            "invalid_args",
            f"cannot read tail={str(value)[:80]!r}: it must be a number of lines",
            remedy="Send 100",
        )
    return min(lines, TAIL_MAX)


def _filter(value: Any) -> str | None:
    """Raises ApiError, ContractError `filter_invalid`."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ApiError(
            400, "invalid_args", f"cannot use filter={str(value)[:80]!r}: it must be text", remedy="Send a word"
        )
    log_filter.check(value)
    return value
