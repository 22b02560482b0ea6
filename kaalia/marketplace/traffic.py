"""From machines' sums of internet traffic to charges, each sum taken exactly once.

A charge is the bytes that one line of a journal adds, at the lowest price that held since the line before. Nothing is
charged that went after the renter's destroy or the contract's end, and nothing that no line could carry.
"""

import logging
from collections.abc import Collection, Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import metering
from kaalia.contracts import traffic as rules
from kaalia.contracts.traffic import Heard
from kaalia.marketplace import billing
from kaalia.marketplace.billing import Agreed
from kaalia.marketplace.db.tables import charges, inet_counts
from kaalia.model.metering import TRAFFIC, Edge, Entry, Interval, Meter
from kaalia.model.traffic import Bytes

log = logging.getLogger(__name__)


async def take(tx: AsyncConnection, machine_id: int, host_id: int, entries: Iterable[Entry], now: datetime) -> None:
    """Apply a machine's lines about traffic, in order. Those about others' contracts are logged and change nothing."""
    for entry in entries:
        if entry.meter not in TRAFFIC or entry.edge is not Edge.COUNT:
            continue
        agreed = await billing.what_was_agreed(tx, entry.meter, entry.contract_id)
        if agreed is None or agreed.machine_id != machine_id:
            log.warning("foreign_contract: machine %d counted %s of %d", machine_id, entry.meter, entry.contract_id)
            continue
        await _take(tx, agreed, host_id, entry, now)


async def _take(tx: AsyncConnection, agreed: Agreed, host_id: int, entry: Entry, now: datetime) -> None:
    this = sa.and_(inet_counts.c.contract_id == entry.contract_id, inet_counts.c.meter == entry.meter)
    row = (await tx.execute(sa.select(inet_counts).where(this))).one_or_none()
    since = agreed.start_at if row is None else from_epoch(row.counted_until)
    found = rules.news(None if row is None else Heard(row.total, from_epoch(row.said_at)), entry)
    if found is None:
        return
    heard, size = found
    until = max(min(entry.at, now), since)  # never ahead of now: many lines at once would each have their time
    counted = {"total": heard.total, "said_at": heard.at.timestamp(), "counted_until": until.timestamp()}
    if row is None:
        key = {"contract_id": entry.contract_id, "meter": entry.meter}
        await tx.execute(sa.insert(inet_counts).values(**key, **counted))
    else:
        await tx.execute(sa.update(inet_counts).where(this).values(**counted))
    ends = [one for one in (agreed.ended_at, agreed.end_at) if one is not None]
    owed = rules.owed(size, since, until, min(ends, default=None))
    if owed:
        used = Interval(entry.contract_id, entry.meter, owed, since, until)
        amount = str(metering.traffic_usd(used, agreed.rates))
        await billing.charge(tx, agreed, host_id, used, ended_at=until.timestamp(), amount=amount)


async def charged(tx: AsyncConnection, contract_ids: Collection[int]) -> dict[int, Bytes]:
    """Bytes that were charged so far, of each contract."""
    query = (
        sa.select(charges.c.contract_id, charges.c.meter, sa.func.sum(charges.c.quantity).label("size"))
        .where(charges.c.contract_id.in_(contract_ids), charges.c.meter.in_(TRAFFIC))
        .group_by(charges.c.contract_id, charges.c.meter)
    )
    found = dict.fromkeys(contract_ids, Bytes())
    for row in await tx.execute(query):
        size = int(row.size)
        found[row.contract_id] += Bytes(up=size) if row.meter == Meter.INET_UP else Bytes(down=size)
    return found
