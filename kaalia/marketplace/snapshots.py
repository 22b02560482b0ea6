"""Snapshots of instances: pushed by their machines to a registry, with a login that is given once and then forgotten.

How one is doing is kept by `snapshot_notes`.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import image
from kaalia.contracts.image import DOCKER_HUB
from kaalia.errors import ContractError
from kaalia.marketplace import instances, logs, sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.snapshot_tables import snapshots
from kaalia.marketplace.routing import Caller
from kaalia.marketplace.snapshot_notes import LOGINS
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import RegistryLoginReply, TaskRequest, Verb

DEADLINE = timedelta(hours=6)
"""For a large image on a slow line."""
WORD_MAX_CHARS = 4096


async def take(context: Context, caller: Caller, instance_id: int, body: Mapping[str, Any]) -> str:
    """Ask the machine for a snapshot; where it is pushed. The same request while it is under way is the same one.

    Raises ApiError 404 `no_such_instance`, 400 `no_container`, `invalid_args`, `snapshot_running`.
    """
    target, pause = _target(body), _pause(body.get("pause"))
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await instances.owned(tx, caller, instance_id)
        status = instances.status_of(row)
        if status is None or status.container_id is None:
            message = f"cannot take a snapshot of instance {instance_id}: it has no container"
            raise ApiError(400, "no_container", message, remedy="Start it, and wait until it runs")
        if (under_way := await _under_way(tx, instance_id, now)) is not None:
            if under_way == target:
                return target
            message = f"cannot take a snapshot of instance {instance_id}: one is on its way to {under_way}"
            raise ApiError(400, "snapshot_running", message, remedy="Wait: `vastai show instance` tells how it goes")
        task = TaskRequest(
            secrets.token_urlsafe(32), Verb.SNAPSHOT, instance_id, now + DEADLINE, image=target, pause=pause
        )
        login = _login(body, target)
        sealed = None if login is None else sealing.seal(context.signing_key, document.encode(login).encode(), LOGINS)
        await tx.execute(sa.delete(snapshots).where(snapshots.c.contract_id == instance_id))
        await tx.execute(
            sa.insert(snapshots).values(
                contract_id=instance_id,
                machine_id=row.machine_id,
                task_id=task.task_id,
                image=target,
                login=sealed,
                told="asked for",
                deadline_at=task.deadline_at.timestamp(),
            )
        )
        await logs.put(tx, row.machine_id, task, now)
    context.machine_bells.ring(row.machine_id)
    return target


def check(body: Mapping[str, Any]) -> None:
    """What of a request can be judged without looking at its instance. Raises ApiError 400 `invalid_args`."""
    _login(body, _target(body))
    _pause(body.get("pause"))


async def _under_way(tx: AsyncConnection, contract_id: int, now: datetime) -> str | None:
    query = sa.select(snapshots.c.image).where(
        snapshots.c.contract_id == contract_id,
        snapshots.c.finished_at.is_(None),
        snapshots.c.deadline_at > now.timestamp(),
    )
    return (await tx.execute(query)).scalar()


def _target(body: Mapping[str, Any]) -> str:
    """The registry's name stands before the repository, unless that names one itself."""
    repo = _text(body, "personal_repo")
    registry = image.registry_name(_text(body, "container_registry", DOCKER_HUB))
    is_named = registry == DOCKER_HUB or image.registry_of(repo) != DOCKER_HUB
    try:
        return image.push_target(repo if is_named else f"{registry}/{repo}")
    except ContractError as error:
        raise ApiError(400, "invalid_args", error.problem.message, remedy=error.problem.remedy) from error


def _login(body: Mapping[str, Any], target: str) -> RegistryLoginReply | None:
    user, password = (_text(body, name, "") for name in ("docker_login_user", "docker_login_pass"))
    if not user and not password:
        return None
    if not user or not password:
        message = "cannot log in to the registry: docker_login_user or docker_login_pass is missing"
        raise ApiError(400, "invalid_args", message, remedy="Give both, or none for a registry without logins")
    return RegistryLoginReply(image.registry_of(target), user, password)


def _pause(value: Any) -> bool:
    """The client sends text."""
    if value is None:
        return True
    words = {"true": True, "false": False}
    if str(value).lower() not in words:
        raise ApiError(400, "invalid_args", f"cannot read pause={str(value)[:40]!r}", remedy="Send true or false")
    return words[str(value).lower()]


def _text(body: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = body.get(name)
    value = default if value is None else value
    if not isinstance(value, str) or len(value) > WORD_MAX_CHARS or (default is None and not value):
        message = f"cannot take a snapshot: {name} must be text of at most {WORD_MAX_CHARS} characters"
        raise ApiError(400, "invalid_args", message, remedy="See `vastai take snapshot --help`")
    return value
