"""Renters' connections to clouds, and copies by them: a machine is asked, and fetches the login for that one copy.

A connection's login is sealed in the database; no answer to a renter ever holds it.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import cloud, copying
from kaalia.marketplace import copies, copy_notes, sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.copy_tables import cloud_connections
from kaalia.marketplace.db.tables import tasks
from kaalia.marketplace.routing import Caller
from kaalia.model.copying import CloudLogin, CloudOrder, CopyEnd, Holder
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import TaskRequest, Verb

CONNECTIONS_MAX = 50
LOGINS = b"kaalia marketplace: logins of clouds at rest"
_NAMED = re.compile(r"(?:s3|b2|drive|dropbox)\.([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A copy by a connection. `cloud_path`: as the caller wrote it."""

    connection_id: int
    place: CopyEnd
    cloud_path: object
    is_upload: bool
    flags: tuple[str, ...] = ()


async def connections(tx: AsyncConnection, user_id: int) -> list[dict[str, Any]]:
    table = cloud_connections
    query = sa.select(table.c.id, table.c.name, table.c.cloud_type).where(table.c.user_id == user_id)
    return [dict(row) for row in (await tx.execute(query.order_by(table.c.id))).mappings()]


async def add(context: Context, caller: Caller, name: object, kind: object, options: object) -> dict[str, Any]:
    """Raises ContractError `cloud_kind_unknown`, `cloud_login_invalid`, ApiError 400 `connection_invalid`."""
    login = cloud.check_login(kind if isinstance(kind, str) else "", options)
    if not isinstance(name, str) or not 0 < len(name) <= cloud.NAME_MAX_CHARS or not name.isprintable():
        message = f"cannot make a connection with name={str(name)[:80]!r}"
        raise ApiError(400, "connection_invalid", message, remedy=f"Give 1 to {cloud.NAME_MAX_CHARS} characters")
    sealed = sealing.seal(context.signing_key, document.encode(login).encode(), LOGINS)
    row = {"user_id": caller.user_id, "name": name, "cloud_type": login.kind, "login": sealed}
    async with context.engine.begin() as tx:
        if len(await connections(tx, caller.user_id)) >= CONNECTIONS_MAX:
            message = f"cannot make a connection: the account has {CONNECTIONS_MAX}"
            raise ApiError(400, "connection_invalid", message, remedy="Delete one that is no longer used")
        row["created_at"] = context.clock.now().timestamp()
        made = sa.insert(cloud_connections).values(row).returning(cloud_connections.c.id)
        number = (await tx.execute(made)).scalar_one()
    return {"id": number, "name": name, "cloud_type": login.kind}


async def remove(context: Context, caller: Caller, number: int) -> None:
    """Copies that go on have the login already. Raises ApiError 404 `no_such_connection`."""
    table = cloud_connections
    mine = sa.and_(table.c.id == number, table.c.user_id == caller.user_id)
    async with context.engine.begin() as tx:
        if not (await tx.execute(sa.delete(table).where(mine))).rowcount:
            raise _no_connection(number)


def wanted(body: Mapping[str, Any]) -> Wanted:
    """Of `cloud copy`. Raises ContractError `cloud_transfer_invalid`, `cloud_flag_refused`, and of `_place`."""
    is_upload, flags = cloud.is_upload(body.get("transfer")), cloud.flags(body.get("flags"))
    here, there = ("src", "dst") if is_upload else ("dst", "src")
    place = _place("instance_id", body.get("instance_id"), here, body.get(here))
    return Wanted(_number(body.get("selected")), place, body.get(there), is_upload, flags)


def wanted_by_name(body: Mapping[str, Any]) -> Wanted | None:
    """Of `copy s3.1001:bucket/x C.7001:/y`; None: no side is a connection. Raises ContractError, ApiError 400."""
    for there, here in (("src", "dst"), ("dst", "src")):
        found = _NAMED.fullmatch(str(body.get(f"{there}_id")))
        if found is not None:
            place = _place(f"{here}_id", body.get(f"{here}_id"), f"{here}_path", body.get(f"{here}_path"))
            return Wanted(int(found[1]), place, body.get(f"{there}_path"), there == "dst")
    return None


async def begin(context: Context, caller: Caller, copy: Wanted) -> str:
    """It goes on when this has returned: its course and its end stand in the message of the instance.

    Raises ApiError 404 `no_such_connection`, `no_such_instance`, `no_such_volume`, 409 `machine_offline` and the
    machine's own codes, 504; ContractError `copy_path_invalid`.
    """
    holder, table, now = copy.place.holder, cloud_connections, context.clock.now()
    mine = sa.and_(table.c.id == copy.connection_id, table.c.user_id == caller.user_id)
    async with context.engine.begin() as tx:
        kind = await tx.scalar(sa.select(table.c.cloud_type).where(mine))
        if kind is None:
            raise _no_connection(copy.connection_id)
        path = cloud.path("dst" if copy.is_upload else "src", kind, copy.cloud_path)
        name = f"{kind}.{copy.connection_id}"
        order = CloudOrder(secrets.token_hex(16), copy.place, name, path, copy.is_upload, copy.flags)
        machine = await copies.online(context, tx, caller, holder, order.what)
        warning = "" if copy.is_upload else copying.warning(copy.place)
        await copy_notes.put(tx, holder, machine.id, f"{order.what}: asked for", warning, now)
    await copies.ask(context, machine.id, Verb.CLOUD_COPY, holder, order.what, cloud=order)
    return warning or f"{order.what} has begun"


async def cancel(context: Context, caller: Caller, holder: Holder) -> str:
    """End all copies between one of the caller's instances or volumes and clouds. Raises ApiError 404 and others."""
    what = f"cancel copies of {holder} with clouds"
    async with context.engine.begin() as tx:
        machine = await copies.online(context, tx, caller, holder, what)
    count = await copies.ask(context, machine.id, Verb.CANCEL_SYNC, holder, what, holder=holder)
    if count == "0":
        message = f"cannot {what}: none goes on"
        raise ApiError(404, "copy_unknown", message, remedy="The instance's message tells of its newest copy")
    return f"{count} cancelled"


async def login(context: Context, machine_id: int, task_id: str) -> CloudLogin:
    """For the machine that was asked for a copy, until it has answered. Raises ApiError 404 `login_unknown`."""
    mine = sa.and_(tasks.c.task_id == task_id, tasks.c.machine_id == machine_id, tasks.c.result.is_(None))
    async with context.engine.begin() as tx:
        text = await tx.scalar(sa.select(tasks.c.document).where(mine))
        task = None if text is None else document.decode(TaskRequest, text)
        sealed = None
        if task is not None and task.cloud is not None and task.deadline_at > context.clock.now():
            number = int(task.cloud.cloud.partition(".")[2])
            query = sa.select(cloud_connections.c.login).where(cloud_connections.c.id == number)
            sealed = await tx.scalar(query)
    clear = None if sealed is None else sealing.unseal(context.signing_key, sealed, LOGINS)
    if clear is None:
        raise ApiError(404, "login_unknown", "cannot find a login for this copy: its connection or its time is over")
    return document.decode(CloudLogin, clear)


def named_holder(field: str, value: object) -> Holder:
    """Raises ContractError `copy_place_invalid`, ApiError 400 `copy_cloud_local`."""
    found = copying.holder(field, value)
    if found is None:
        message = f"cannot copy between a cloud and your own machine with {field}={str(value)[:80]!r}"
        raise ApiError(400, "copy_cloud_local", message, remedy="Run rclone there, or name an instance: C.ID")
    return found


def _place(field: str, value: object, path_field: str, path: object) -> CopyEnd:
    """The client's documents write paths with and without the instance's id in front."""
    holder = named_holder(field, value)
    if isinstance(path, str):
        path = path.removeprefix(f"{holder}:").removeprefix(f"{holder.number}:")
    return CopyEnd(holder, copying.path(path_field, path))


def _number(value: object) -> int:
    text = str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise _no_connection(text)
    return int(text)


def _no_connection(number: object) -> ApiError:
    message = f"cannot use connection {str(number)[:40]}: the account has no such one"
    return ApiError(404, "no_such_connection", message, remedy="Look at `vastai show connections`")
