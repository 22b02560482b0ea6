"""What holds between renters and owners, and what they agreed will hold: contracts and the increases accepted."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import increase
from kaalia.contracts.contract import OWN_KINDS, Contract, prolonged
from kaalia.contracts.increase import Agreement
from kaalia.contracts.offer import Listing
from kaalia.marketplace.db.tables import contracts, price_increases
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class Step:
    """An accepted increase that is not written into its contract yet: what holds from `at` on."""

    increase_id: int
    at: datetime
    agreed: Agreement


@dataclass(frozen=True, slots=True)
class Standing:
    """One live contract. `latest`: what was agreed last, with the end that it has now."""

    contract_id: int
    user_id: int
    agreed: Agreement
    steps: tuple[Step, ...] = ()

    @property
    def latest(self) -> Agreement:
        return self.steps[-1].agreed if self.steps else self.agreed


async def standing(tx: AsyncConnection, row: sa.Row[Any]) -> Standing:
    """Of one row of `contracts`."""
    return (await _standings(tx, [row]))[0]


async def of_machine(tx: AsyncConnection, machine_id: int) -> list[Standing]:
    """The rentals of a machine that nobody ended, locked. Nobody agrees on anything about the owner's own work."""
    alive = sa.and_(
        contracts.c.machine_id == machine_id, contracts.c.ended_at.is_(None), contracts.c.removed_at.is_(None)
    )
    rows = (await tx.execute(sa.select(contracts).where(alive).order_by(contracts.c.id).with_for_update())).all()
    return [one for one in await _standings(tx, rows) if one.agreed.contract.kind not in OWN_KINDS]


async def put_end(tx: AsyncConnection, one: Standing, end_at: datetime | None) -> None:
    """Move the end of a contract. Raise the machine's revision and ring its bell as well."""
    await put(tx, one, prolonged(one.agreed.contract, end_at))


async def put(tx: AsyncConnection, one: Standing, contract: Contract) -> None:
    """In place of the contract as it stood. Raise the machine's revision and ring its bell as well."""
    text = document.encode(contract)
    await tx.execute(sa.update(contracts).where(contracts.c.id == one.contract_id).values(document=text))


async def _standings(tx: AsyncConnection, rows: Collection[sa.Row[Any]]) -> list[Standing]:
    query = sa.select(price_increases).where(
        price_increases.c.contract_id.in_([row.id for row in rows]), price_increases.c.state == "accepted"
    )
    accepted: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for one in await tx.execute(query.order_by(price_increases.c.applies_at, price_increases.c.id)):
        accepted[one.contract_id].append(one)
    return [_standing(row, accepted[row.id]) for row in rows]


def _standing(row: sa.Row[Any], accepted: list[sa.Row[Any]]) -> Standing:
    agreed = Agreement(document.decode(Contract, row.document), document.decode(Listing, row.price_terms))
    steps: list[Step] = []
    latest = agreed
    for one in accepted:
        latest = increase.accepted(latest, document.decode(Listing, one.terms))
        steps.append(Step(one.id, from_epoch(one.applies_at), latest))
    return Standing(row.id, row.user_id, agreed, tuple(steps))
