"""What the tests of rentals share: a listed machine, a rented slice, and a daemon's word on a contract."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts.contract import Contract
from kaalia.contracts.offer import Listing
from kaalia.marketplace import listings, liveness, machines, rentals
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import tables
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.wire import document
from tests.marketplace.support import Answer, Api, Market, add_machine, open_market

TERMS = Listing(price_gpu_per_hour=Decimal("0.4"), price_min_bid_per_hour=Decimal("0.1"))


@asynccontextmanager
async def rented_market(folder: Path, report: MachineReport | None = None) -> AsyncIterator[Market]:
    """A marketplace with one listed machine of 8 GPUs, unless `report` says otherwise."""
    async with open_market(folder) as market:
        market.context.settings = replace(market.context.settings, public_url=market.url)
        await list_machine(market.context, await add_machine(market.context, report))
        yield market


async def list_machine(context: Context, machine_id: int, terms: Listing | None = TERMS) -> None:
    now = context.clock.now()
    async with context.engine.begin() as tx:
        await machines.put_listing(tx, machine_id, terms)
        await listings.refresh_asks(tx, machine_id, now)


async def ask_of(context: Context, num_gpus: int = 1, machine_id: int = 1) -> int:
    """A slice of that size that nobody rents."""
    asks = tables.asks.c
    query = sa.select(asks.id).where(
        asks.machine_id == machine_id, asks.num_gpus == num_gpus, asks.contract_id.is_(None)
    )
    async with context.engine.begin() as tx:
        return int((await tx.scalars(query.order_by(asks.id))).all()[0])


async def accept(market: Market, ask_id: int | None = None, by: Api | None = None, **body: Any) -> Answer:
    """PUT /asks/{id}/ as the client sends it, with the given fields in place of its defaults."""
    if ask_id is None:
        ask_id = await ask_of(market.context)
    return await (by or market.renter).call("PUT", f"/api/v0/asks/{ask_id}/", {**client_body(), **body})


async def rent(market: Market, num_gpus: int = 1, **body: Any) -> int:
    """An instance; its id."""
    answer = await accept(market, await ask_of(market.context, num_gpus), **body)
    assert answer.status == 200, answer.body
    return int(answer.body["new_contract"])


def client_body() -> dict[str, Any]:
    """What `vastai create instance ID --image ubuntu:22.04` sends."""
    return {
        "client_id": "me",
        "image": "ubuntu:22.04",
        "env": {},
        "price": None,
        "disk": 10,
        "label": None,
        "extra": None,
        "onstart": None,
        "image_login": None,
        "python_utf8": False,
        "lang_utf8": False,
        "use_jupyter_lab": False,
        "jupyter_dir": None,
        "force": False,
        "cancel_unavail": False,
        "template_hash_id": None,
        "user": None,
    }


async def show(market: Market, instance_id: int, by: Api | None = None) -> Any:
    answer = await (by or market.renter).call("GET", f"/api/v0/instances/{instance_id}/?owner=me")
    assert answer.status == 200, answer.body
    return answer.body["instances"]


async def say(market: Market, instance_id: int, state: WorkloadState, **changes: Any) -> None:
    """The daemon reports on a contract, later than anything it said before."""
    market.clock.advance(0.001)
    now = market.context.clock.now()
    status = WorkloadStatus(contract_id=instance_id, generation=1, state=state, as_of=now)
    async with market.context.engine.begin() as tx:
        await rentals.record_status(tx, replace(status, **changes))
        await _refresh(tx, instance_id, now)


async def prove_removed(market: Market, instance_id: int) -> None:
    async with market.context.engine.begin() as tx:
        await rentals.finished(tx, instance_id, market.context.clock.now())
        await _refresh(tx, instance_id, market.context.clock.now())


async def _refresh(tx: AsyncConnection, instance_id: int, now: datetime) -> None:
    contracts = tables.contracts
    found = await tx.execute(sa.select(contracts.c.machine_id).where(contracts.c.id == instance_id))
    await listings.refresh_asks(tx, found.scalar_one(), now)


async def hear_of(market: Market, machine_id: int = 1) -> None:
    """A heartbeat."""
    async with market.context.engine.begin() as tx:
        await liveness.seen(tx, machine_id, market.context.clock.now())


async def contract_of(market: Market, instance_id: int) -> Contract:
    """The contract as its machine is told."""
    async with market.context.engine.begin() as tx:
        text = await tx.scalar(sa.select(tables.contracts.c.document).where(tables.contracts.c.id == instance_id))
    return document.decode(Contract, str(text))


async def revision_of(market: Market, machine_id: int = 1) -> int:
    async with market.context.engine.begin() as tx:
        machine = await machines.get(tx, machine_id)
    assert machine is not None
    return machine.revision
