"""The operator's side of relays: add, show, remove, and forget a host key that was lost."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kaalia.clock import from_epoch
from kaalia.contracts import relay as rules
from kaalia.errors import ConfigError
from kaalia.marketplace import auth, relays
from kaalia.marketplace.db.relay_tables import relay_blocks, relay_ports
from kaalia.marketplace.db.relay_tables import relays as table
from kaalia.marketplace.db.tables import contracts
from kaalia.model.machine import PortRange


@dataclass(frozen=True, slots=True)
class KnownRelay:
    """`host_key` and `seen_at`: None when it was never here. `machines`, `contracts`: how many use it."""

    name: str
    host: str
    port: int
    ports: PortRange
    host_key: str | None
    seen_at: datetime | None
    machines: int
    contracts: int


async def add(engine: AsyncEngine, name: str, host: str, port: int, ports: PortRange) -> str:
    """Make a relay known; its token, which is stored nowhere. Raises ContractError; ConfigError `relay_exists` or
    `relay_address_invalid`.
    """
    rules.check_name(name)
    rules.check_host(host)
    if is_nowhere(host) or not 0 < port <= rules.LAST_PORT:
        raise ConfigError(
            "relay_address_invalid",
            f"cannot add relay {name} at {host}:{port}: machines and renters could not connect to that",
            remedy="give the public name or address of its machine, and the port of its --listen",
        )
    rules.check_apart(port, ports)
    token = auth.new_key()
    values = {
        "name": name,
        "host": host,
        "port": port,
        "first_port": ports.first,
        "last_port": ports.last,
        "token_sha256": auth.digest(token),
    }
    async with engine.begin() as tx:
        if await tx.scalar(sa.select(table.c.id).where(table.c.name == name)) is not None:
            remedy = "choose another name, or remove that one first"
            raise ConfigError("relay_exists", f"cannot add relay {name}: there is one of this name", remedy=remedy)
        await tx.execute(sa.insert(table).values(**values))
    return token


def is_nowhere(host: str) -> bool:
    """An address to listen on, but not to connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


async def known(engine: AsyncEngine) -> list[KnownRelay]:
    """All relays, by name."""
    async with engine.begin() as tx:
        rows = (await tx.execute(sa.select(table).order_by(table.c.name))).all()
        return [
            KnownRelay(
                name=row.name,
                host=row.host,
                port=row.port,
                ports=PortRange(row.first_port, row.last_port),
                host_key=row.host_key,
                seen_at=None if row.seen_at is None else from_epoch(row.seen_at),
                machines=await _machines(tx, row.id),
                contracts=await _contracts(tx, row.id),
            )
            for row in rows
        ]


async def forget_key(engine: AsyncEngine, name: str) -> None:
    """The next host key that the relay tells is the right one; machines learn it then. Raises ConfigError."""
    async with engine.begin() as tx:
        relay_id = await _find(tx, name)
        await tx.execute(sa.update(table).where(table.c.id == relay_id).values(takes_new_key=True))


async def remove(engine: AsyncEngine, name: str, *, force: bool = False) -> None:
    """Forget a relay; its machines close their connections. Raises ConfigError `relay_unknown`, `relay_in_use`."""
    async with engine.begin() as tx:
        relay_id = await _find(tx, name)
        if (count := await _contracts(tx, relay_id)) and not force:
            raise ConfigError(
                "relay_in_use",
                f"cannot remove relay {name}: {count} running contracts are reached by it",
                remedy="wait until they are over, or cut their renters off with --force",
            )
        await relays.tell_machines(tx, relay_id)
        for part in (relay_ports, relay_blocks):
            await tx.execute(sa.delete(part).where(part.c.relay_id == relay_id))
        await tx.execute(sa.delete(table).where(table.c.id == relay_id))


async def _find(tx: AsyncConnection, name: str) -> int:
    relay_id = await tx.scalar(sa.select(table.c.id).where(table.c.name == name))
    if relay_id is None:
        remedy = "`kaalia marketplace relay list` shows those that are"
        raise ConfigError("relay_unknown", f"cannot find relay {name!r}", remedy=remedy)
    return int(relay_id)


async def _machines(tx: AsyncConnection, relay_id: int) -> int:
    query = sa.select(sa.func.count(relay_blocks.c.machine_id.distinct())).where(relay_blocks.c.relay_id == relay_id)
    return int(await tx.scalar(query) or 0)


async def _contracts(tx: AsyncConnection, relay_id: int) -> int:
    joined = relay_ports.join(contracts, contracts.c.id == relay_ports.c.contract_id)
    query = (
        sa.select(sa.func.count(contracts.c.id.distinct()))
        .select_from(joined)
        .where(relay_ports.c.relay_id == relay_id, contracts.c.ended_at.is_(None))
    )
    return int(await tx.scalar(query) or 0)
