"""Who may log in to an instance: the account's keys when it was rented, and what was attached or detached since.

A change travels with the contract, and takes effect in the running container. Private keys are refused and not kept.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.contract import Contract
from kaalia.marketplace import accounts, instances
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import instance_keys
from kaalia.marketplace.routing import Caller
from kaalia.model.workload import LaunchMode
from kaalia.wire import document
from kaalia.wire.error import ApiError

KEYS_MAX = 100


async def keep(tx: AsyncConnection, contract_id: int, user_id: int, lines: tuple[str, ...], now: datetime) -> None:
    """Further keys of an instance. One that the account has changed since takes the place of what it was."""
    for line in dict.fromkeys(lines):
        row = {"contract_id": contract_id, "key_id": await accounts.number_of_key(tx, user_id, line, now)}
        await tx.execute(sa.delete(instance_keys).where(*(instance_keys.c[name] == row[name] for name in row)))
        await tx.execute(sa.insert(instance_keys).values(row | {"public_key": line, "attached_at": now.timestamp()}))


async def lines(tx: AsyncConnection, instance_id: int) -> list[str]:
    """The keys of an instance that the caller has found to be his."""
    return [str(one.public_key) for one in await _rows(tx, instance_id)]


async def listed(context: Context, caller: Caller, instance_id: int) -> list[dict[str, Any]]:
    """Raises ApiError 404 `no_such_instance`."""
    async with context.engine.begin() as tx:
        row = await instances.owned(tx, caller, instance_id)
        await _know(tx, row, document.decode(Contract, row.document), context.clock.now())
        return [_shown(one, row.user_id) for one in await _rows(tx, instance_id)]


async def attach(context: Context, caller: Caller, instance_id: int, text: str) -> dict[str, Any]:
    """The same key twice is one key. Raises ApiError 400 `invalid_ssh_key`, `private_ssh_key`, 404 and others."""
    line, now = accounts.check_ssh_key(text), context.clock.now()
    async with context.engine.begin() as tx:
        row = await instances.owned(tx, caller, instance_id)
        contract = document.decode(Contract, row.document)
        _check_has_sshd(contract, "attach")
        await _know(tx, row, contract, now)
        known = await _rows(tx, instance_id)
        found = next((one for one in known if one.public_key == line), None)
        if found is None:
            if len(known) >= KEYS_MAX:
                message = f"cannot attach a key to instance {instance_id}: it has {len(known)} already"
                raise ApiError(400, "too_many_ssh_keys", message, remedy="Detach one: `vastai detach ssh`")
            await keep(tx, instance_id, row.user_id, (line,), now)
        shown = next(one for one in await _rows(tx, instance_id) if one.public_key == line)
        await _tell(tx, row, contract, now)
    context.machine_bells.ring(row.machine_id)
    return _shown(shown, row.user_id)


async def detach(tx: AsyncConnection, caller: Caller, instance_id: int, key_id: int, now: datetime) -> tuple[str, int]:
    """The key's line, and the machine whose bell is to be rung after the commit. Sessions that are open stay open.

    Raises ApiError 404 `no_such_instance`, `no_such_ssh_key`.
    """
    row = await instances.owned(tx, caller, instance_id)
    contract = document.decode(Contract, row.document)
    await _know(tx, row, contract, now)
    found = next((one for one in await _rows(tx, instance_id) if one.key_id == key_id), None)
    if found is None:
        raise ApiError(
            404,
            "no_such_ssh_key",
            f"cannot detach SSH key {key_id}: instance {instance_id} has no such key",
            remedy=f"GET /api/v0/instances/{instance_id}/ssh/ lists its keys",
        )
    mine = sa.and_(instance_keys.c.contract_id == instance_id, instance_keys.c.key_id == key_id)
    await tx.execute(sa.delete(instance_keys).where(mine))
    await _tell(tx, row, contract, now)
    return str(found.public_key), int(row.machine_id)


async def _know(tx: AsyncConnection, row: instances.Row, contract: Contract, now: datetime) -> None:
    """Rows for an instance of an older marketplace, which told its keys by a variable only."""
    if contract.ssh_keys is None and not await _rows(tx, row.id):
        told = dict(contract.spec.env).get("SSH_PUBLIC_KEY", "")
        await keep(tx, row.id, row.user_id, tuple(told.splitlines()), now)


async def _rows(tx: AsyncConnection, instance_id: int) -> list[sa.Row[Any]]:
    query = sa.select(instance_keys).where(instance_keys.c.contract_id == instance_id)
    return list(await tx.execute(query.order_by(instance_keys.c.attached_at, instance_keys.c.key_id)))


async def _tell(tx: AsyncConnection, row: instances.Row, contract: Contract, now: datetime) -> None:
    keys = tuple(one.public_key for one in await _rows(tx, row.id))
    if keys != contract.ssh_keys:
        await instances.change(tx, row, replace(contract, ssh_keys=keys), now)


def _check_has_sshd(contract: Contract, verb: str) -> None:
    if contract.spec.launch_mode is LaunchMode.ARGS:
        raise ApiError(
            400,
            "no_ssh_mode",
            f"cannot {verb} an SSH key: instance {contract.contract_id} has runtype args, where only the image's own "
            "program runs",
            remedy="Rent with runtype ssh, or put the key into the image",
        )


def _shown(row: sa.Row[Any], user_id: int) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "user_id": user_id,
        "instance_id": row.contract_id,
        "public_key": row.public_key,
        "key": row.public_key,
        "created_at": row.attached_at,
    }
