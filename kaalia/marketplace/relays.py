"""Relays: which there are, which of their ports belong to which machine, and by which a contract is reached.

A block of ports stays with its machine for good. Whoever logged in once may keep the connection, and with it the right
to listen on the ports that its key had then: so no port ever changes from one machine to another.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import relay as rules
from kaalia.errors import ContractError
from kaalia.marketplace import auth, machines
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.relay_tables import relay_blocks, relay_keys, relay_ports, relays
from kaalia.marketplace.db.tables import contracts, deleted_machines
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.machine import PortRange
from kaalia.model.relay import RelayedPorts, RelayForward, RelayLink
from kaalia.model.workload import LaunchMode
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import LONG_POLL_S
from kaalia.wire.relay import MachinePermit, RelayPermits, RelayPoll

Row = sa.Row[Any]


async def permits(context: Context, name: str, token: str, poll: RelayPoll) -> RelayPermits | None:
    """Whom a relay lets listen, as soon as it is other than what it knows; None when there is no news.

    Raises ApiError 404 `relay_unknown`, 401 `relay_token_invalid`, 409 `relay_key_changed` or `relay_ports_differ`.
    """
    loop = asyncio.get_running_loop()
    until_s = loop.time() + min(max(poll.wait_s, 0.0), LONG_POLL_S)
    relay_id = await _greet(context, name, token, poll)
    bell = context.relay_bells.subscribe(relay_id)
    try:
        while True:
            bell.clear()
            async with context.engine.begin() as tx:
                found = await _permits(tx, relay_id)
            if found.digest != poll.known:
                return found
            if (remaining_s := until_s - loop.time()) <= 0:
                return None
            await context.relay_bells.wait(relay_id, bell, remaining_s)
    finally:
        context.relay_bells.unsubscribe(relay_id, bell)


async def take_key(context: Context, tx: AsyncConnection, machine_id: int, key: str | None) -> bool:
    """Keep the key that a machine tells, and whether it is another one: then ring the bells after the commit.

    None says that it uses no relay: contracts keep their ports, and new ones get none.
    """
    known = await tx.scalar(sa.select(relay_keys.c.public_key).where(relay_keys.c.machine_id == machine_id))
    if key == known or (key is not None and not _is_key(key)):
        return False
    await tx.execute(sa.delete(relay_keys).where(relay_keys.c.machine_id == machine_id))
    if key is not None:
        await tx.execute(sa.insert(relay_keys).values(machine_id=machine_id, public_key=key))
    return True


async def ring(context: Context, machine_id: int) -> None:
    """Wake the relays that know this machine. Call after the commit."""
    async with context.engine.begin() as tx:
        of_machine = sa.select(relay_blocks.c.relay_id).where(relay_blocks.c.machine_id == machine_id).distinct()
        relay_ids = list(await tx.scalars(of_machine))
    for relay_id in relay_ids:
        context.relay_bells.ring(relay_id)


async def grant(
    context: Context,
    tx: AsyncConnection,
    machine: MachineRecord,
    contract_id: int,
    mode: LaunchMode,
    runtype: str,
    now: datetime,
) -> None:
    """Give a new contract ports of a relay, if it shall be reached by one and there is one that can.

    The caller holds the machine's row. Call `ring` after the commit.
    """
    if machine.report is None:
        return
    wanted = rules.served(mode, runtype, rules.has_direct_ports(machine.report.network))
    if not wanted or await _key_of(tx, machine.id) is None:
        return
    await _release(tx, machine.id)
    for row in await _usable(context, tx, machine.id, now):
        forwards = await _ports_of(tx, row, machine.id, contract_id, wanted)
        if forwards:
            rows = [
                {
                    "relay_id": row.id,
                    "port": forward.relay_port,
                    "contract_id": contract_id,
                    "container_port": forward.container_port,
                }
                for forward in forwards
            ]
            await tx.execute(sa.insert(relay_ports), rows)
            return


async def links(tx: AsyncConnection, machine_id: int) -> tuple[RelayLink, ...]:
    """What a machine's daemon is told: its blocks that contracts are reached by."""
    query = (
        sa.select(
            relays,
            relay_blocks.c.first_port.label("block"),
            relay_ports.c.port.label("given"),
            relay_ports.c.contract_id,
            relay_ports.c.container_port,
        )
        .select_from(_live_ports())
        .where(relay_blocks.c.machine_id == machine_id, relays.c.host_key.is_not(None))
        .order_by(relays.c.name, relay_ports.c.port)
    )
    found: dict[tuple[int, int], RelayLink] = {}
    for row in await tx.execute(query):
        key = (row.id, row.block)
        last = row.block + rules.BLOCK_PORTS - 1
        link = found.get(key) or RelayLink(row.name, row.host, row.port, row.login, row.host_key, row.block, last)
        forward = RelayForward(row.contract_id, row.container_port, row.given)
        found[key] = replace(link, forwards=(*link.forwards, forward))
    return tuple(found.values())


async def reached_by(tx: AsyncConnection, contract_ids: Collection[int]) -> dict[int, RelayedPorts]:
    """Where each of these contracts is reached by a relay; one that is not is missing."""
    query = (
        sa.select(relay_ports, relays.c.host)
        .select_from(relay_ports.join(relays, relays.c.id == relay_ports.c.relay_id))
        .where(relay_ports.c.contract_id.in_(contract_ids))
        .order_by(relay_ports.c.port)
    )
    found: dict[int, RelayedPorts] = {}
    for row in await tx.execute(query):
        known = found.get(row.contract_id, RelayedPorts(row.host, ()))
        found[row.contract_id] = replace(known, ports=(*known.ports, (row.container_port, row.port)))
    return found


async def tell_machines(tx: AsyncConnection, relay_id: int) -> list[int]:
    """The machines whose daemons must see a change of the relay. Ring their bells after the commit."""
    query = sa.select(relay_blocks.c.machine_id).where(relay_blocks.c.relay_id == relay_id).distinct()
    machine_ids = list(await tx.scalars(query))
    for machine_id in machine_ids:
        await machines.bump(tx, machine_id)
    return machine_ids


async def _greet(context: Context, name: str, token: str, poll: RelayPoll) -> int:
    """The relay's id, once it is who it says it is. What it is told of itself is kept."""
    async with context.engine.begin() as tx:
        row = (await tx.execute(sa.select(relays).where(relays.c.name == name))).one_or_none()
        if row is None:
            remedy = f"its operator runs: kaalia marketplace relay add {name} --address HOST:PORT --ports FIRST-LAST"
            raise ApiError(404, "relay_unknown", f"cannot find a relay {name!r} here", remedy=remedy)
        if not hmac.compare_digest(auth.digest(token), row.token_sha256):
            remedy = "give the token that `kaalia marketplace relay add` showed"
            raise ApiError(
                401, "relay_token_invalid", f"cannot accept relay {name}: the token is not its own", remedy=remedy
            )
        _check(row, poll)
        has_changed = (row.host_key, row.login) != (poll.host_key, poll.user)
        values = {"host_key": poll.host_key, "login": poll.user, "seen_at": context.clock.now().timestamp()}
        if has_changed:
            values["takes_new_key"] = False
        await tx.execute(sa.update(relays).where(relays.c.id == row.id).values(**values))
        machine_ids = await tell_machines(tx, row.id) if has_changed else []
    for machine_id in machine_ids:
        context.machine_bells.ring(machine_id)
    return int(row.id)


def _check(row: Row, poll: RelayPoll) -> None:
    try:
        rules.check_key(poll.host_key)
        rules.check_user(poll.user)
    except ContractError as error:
        raise ApiError(400, error.code, error.problem.message, remedy=error.problem.remedy) from error
    if row.host_key not in (None, poll.host_key) and not row.takes_new_key:
        raise ApiError(
            409,
            "relay_key_changed",
            f"cannot accept relay {row.name}: its host key is another one than before",
            remedy="restore host_key of its data folder; or, if that is lost for good, "
            f"its operator runs: kaalia marketplace relay forget-key {row.name}",
        )
    if (row.first_port, row.last_port) != (poll.first_port, poll.last_port):
        raise ApiError(
            409,
            "relay_ports_differ",
            f"cannot accept relay {row.name}: it serves ports {poll.first_port}-{poll.last_port}, "
            f"and is known here with {row.first_port}-{row.last_port}",
            remedy=f"start it with --ports {row.first_port}-{row.last_port}",
        )


async def _permits(tx: AsyncConnection, relay_id: int) -> RelayPermits:
    joined = relay_blocks.join(relay_keys, relay_keys.c.machine_id == relay_blocks.c.machine_id)
    joined = joined.outerjoin(deleted_machines, deleted_machines.c.machine_id == relay_blocks.c.machine_id)
    query = (
        sa.select(relay_blocks.c.machine_id, relay_blocks.c.first_port, relay_keys.c.public_key)
        .select_from(joined)
        .where(relay_blocks.c.relay_id == relay_id, deleted_machines.c.machine_id.is_(None))
        .order_by(relay_blocks.c.machine_id, relay_blocks.c.first_port)
    )
    found: dict[int, MachinePermit] = {}
    for row in await tx.execute(query):
        known = found.get(row.machine_id, MachinePermit(row.machine_id, row.public_key, ()))
        ports = range(row.first_port, row.first_port + rules.BLOCK_PORTS)
        found[row.machine_id] = replace(known, ports=(*known.ports, *ports))
    listed = RelayPermits("", tuple(found.values()))
    return replace(listed, digest=hashlib.sha256(document.encode(listed).encode()).hexdigest()[:32])


def _live_ports() -> sa.Join:
    in_block = sa.and_(
        relay_ports.c.relay_id == relay_blocks.c.relay_id,
        relay_ports.c.port.between(relay_blocks.c.first_port, relay_blocks.c.first_port + rules.BLOCK_PORTS - 1),
    )
    alive = sa.and_(contracts.c.id == relay_ports.c.contract_id, contracts.c.ended_at.is_(None))
    joined = relay_blocks.join(relays, relays.c.id == relay_blocks.c.relay_id)
    return joined.join(relay_ports, in_block).join(contracts, alive)


async def _release(tx: AsyncConnection, machine_id: int) -> None:
    """Forget the ports of this machine's contracts that are over."""
    over = sa.select(contracts.c.id).where(contracts.c.machine_id == machine_id, contracts.c.ended_at.is_not(None))
    await tx.execute(sa.delete(relay_ports).where(relay_ports.c.contract_id.in_(over)))


async def _usable(context: Context, tx: AsyncConnection, machine_id: int, now: datetime) -> list[Row]:
    """Relays that are there: those first that the machine has a connection to, then those with the fewest machines."""
    load = sa.select(sa.func.count()).where(relay_blocks.c.relay_id == relays.c.id).scalar_subquery()
    mine = sa.exists().where(relay_blocks.c.relay_id == relays.c.id, relay_blocks.c.machine_id == machine_id)
    heard_since = now.timestamp() - context.settings.relay_silent_after_s
    query = sa.select(relays).where(relays.c.seen_at >= heard_since).order_by(sa.desc(mine), load, relays.c.id)
    return list(await tx.execute(query))


async def _ports_of(
    tx: AsyncConnection, row: Row, machine_id: int, contract_id: int, wanted: tuple[int, ...]
) -> tuple[RelayForward, ...]:
    # Of two machines that want a new block at once the second one waits.
    await tx.execute(sa.select(relays.c.id).where(relays.c.id == row.id).with_for_update())
    taken = set(await tx.scalars(sa.select(relay_ports.c.port).where(relay_ports.c.relay_id == row.id)))
    of_relay = sa.select(relay_blocks).where(relay_blocks.c.relay_id == row.id)
    given = {found.first_port: found.machine_id for found in await tx.execute(of_relay)}
    fresh = None
    for block in rules.blocks(PortRange(row.first_port, row.last_port)):
        owner = given.get(block.first)
        if owner == machine_id and (forwards := rules.choose(block, taken, contract_id, wanted)):
            return forwards
        fresh = block if owner is None and fresh is None else fresh
    if fresh is None:
        return ()
    values = {"relay_id": row.id, "first_port": fresh.first, "machine_id": machine_id}
    await tx.execute(sa.insert(relay_blocks).values(**values))
    return rules.choose(fresh, (), contract_id, wanted)


async def _key_of(tx: AsyncConnection, machine_id: int) -> str | None:
    key: str | None = await tx.scalar(sa.select(relay_keys.c.public_key).where(relay_keys.c.machine_id == machine_id))
    return key


def _is_key(key: str) -> bool:
    try:
        rules.check_key(key)
    except ContractError:
        return False
    return True
