"""An enrolled machine beside a served marketplace: real database, real connection, clocks that stand still."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kaalia.clock import Clock
from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.marketplace import accounts, machines
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import tables
from kaalia.model.workload import LaunchMode, WorkloadSpec, WorkloadState, WorkloadStatus
from kaalia.store import contracts, outbox, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.contracts import StoredContract
from kaalia.store.database import Database
from kaalia.store.enrolment import Enrolment
from kaalia.sync.client import MarketplaceClient
from kaalia.sync.enroll import enroll, load_key
from kaalia.units import GIB
from kaalia.wire import document
from tests.marketplace.support import Market, open_market
from tests.support.clock import FakeClock

FINGERPRINT = "f" * 64
SPEC = WorkloadSpec(image="busybox", launch_mode=LaunchMode.ARGS, disk_bytes=GIB, gpu_count=1)


@dataclass(frozen=True)
class Machine:
    """One daemon's state, without its loops."""

    database: Database
    changes: Changes
    clock: FakeClock
    state_dir: Path
    member: Enrolment
    client: MarketplaceClient

    async def contracts(self) -> dict[int, StoredContract]:
        stored = await self.database.read(contracts.all_contracts)
        return {each.contract.contract_id: each for each in stored}

    async def tell(self, status: WorkloadStatus) -> None:
        """What the reconciler does: the row and the message, together."""

        def work(tx: object) -> None:
            workloads.put(tx, status)  # type: ignore[arg-type]
            outbox.add(tx, "workload", document.encode(status), status.as_of)  # type: ignore[arg-type]

        await self.database.transaction(work, Topic.WORKLOADS, Topic.OUTBOX)

    async def pending(self) -> int:
        return len(await self.database.read(lambda tx: outbox.pending(tx, 1000)))


@asynccontextmanager
async def open_state(folder: Path) -> AsyncIterator[tuple[Database, Changes]]:
    folder.mkdir(parents=True, exist_ok=True)
    changes = Changes()
    database = Database(folder / "state.db", changes)
    await database.open()
    try:
        yield database, changes
    finally:
        await database.close()


@asynccontextmanager
async def open_machine(market: Market, folder: Path) -> AsyncIterator[Machine]:
    """A machine of the user `host`, enrolled over the wire."""
    clock = FakeClock(market.clock.now())
    async with open_state(folder) as (database, changes):
        token = await accounts.new_enrol_token(market.context.engine, "host", market.clock.now())
        member = await enroll(database, folder, market.url, token, FINGERPRINT, clock)
        key = await asyncio.to_thread(load_key, folder)
        client = MarketplaceClient(member.url, member.machine_id, key, clock)
        try:
            yield Machine(database, changes, clock, folder, member, client)
        finally:
            await client.close()


@asynccontextmanager
async def open_pair(folder: Path, **settings: Any) -> AsyncIterator[tuple[Market, Machine]]:
    (folder / "market").mkdir()
    async with (
        open_market(folder / "market", **settings) as market,
        open_machine(market, folder / "machine") as machine,
    ):
        yield market, machine


def contract(contract_id: int = 0, now: Clock | None = None, **changes: object) -> Contract:
    plain = Contract(
        contract_id=contract_id,
        generation=1,
        kind=ContractKind.ON_DEMAND,
        desired=Desired.RUNNING,
        spec=SPEC,
        price_usd_per_hour=Decimal("0.4"),
        start_at=(now or FakeClock()).now(),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


async def rent(context: Context, machine_id: int, **changes: object) -> int:
    """A contract in the marketplace's books, and news for its machine; returns its id."""
    agreed = contract(**changes)  # type: ignore[arg-type]
    async with context.engine.begin() as tx:
        user_id = await tx.scalar(sa.select(tables.users.c.id).where(tables.users.c.username == "renter"))
        contract_id: int = await tx.scalar(
            sa.insert(tables.contracts)
            .values(
                machine_id=machine_id,
                user_id=user_id,
                ask_id=1,
                document="",
                request="{}",
                jupyter_token="t",
                price_terms="{}",
                start_date=agreed.start_at.timestamp(),
            )
            .returning(tables.contracts.c.id)
        )
    await write_contract(context, machine_id, replace(agreed, contract_id=contract_id))
    return contract_id


async def write_contract(context: Context, machine_id: int, agreed: Contract) -> None:
    async with context.engine.begin() as tx:
        await tx.execute(
            sa.update(tables.contracts)
            .where(tables.contracts.c.id == agreed.contract_id)
            .values(document=document.encode(agreed))
        )
        await machines.bump(tx, machine_id)
    context.machine_bells.ring(machine_id)


async def destroy(context: Context, machine_id: int, contract_id: int, now: datetime) -> None:
    """The renter destroys the instance."""
    async with context.engine.begin() as tx:
        await tx.execute(
            sa.update(tables.contracts).where(tables.contracts.c.id == contract_id).values(ended_at=now.timestamp())
        )
        await machines.bump(tx, machine_id)
    context.machine_bells.ring(machine_id)


async def forget(context: Context, machine_id: int, contract_id: int) -> None:
    """The marketplace loses a contract without a tombstone."""
    async with context.engine.begin() as tx:
        await tx.execute(sa.delete(tables.contracts).where(tables.contracts.c.id == contract_id))
        await machines.bump(tx, machine_id)
    context.machine_bells.ring(machine_id)


async def known_status(context: Context, contract_id: int) -> WorkloadStatus | None:
    """What the marketplace believes of a contract's workload."""
    query = sa.select(tables.contracts.c.status).where(tables.contracts.c.id == contract_id)
    async with context.engine.begin() as tx:
        text = await tx.scalar(query)
    return document.decode(WorkloadStatus, text) if text else None


def status(contract_id: int, state: WorkloadState, as_of: datetime, **changes: object) -> WorkloadStatus:
    return replace(WorkloadStatus(contract_id, 1, state, as_of), **changes)  # type: ignore[arg-type]
