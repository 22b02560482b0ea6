"""From machines' journals to money: intervals of use, the prices that held, who owes and who earned.

An interval is taken exactly once, in the transaction that acknowledges its message. Its money never goes beyond what
was agreed: nothing after the renter's destroy or the contract's end, no more disk than was rented. What still goes on
counts up to the machine's last word, so that a machine that is away costs nothing until it says what happened.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import metering
from kaalia.contracts.contract import Contract, ContractKind
from kaalia.contracts.increase import Agreement
from kaalia.contracts.metering import Line, Rate
from kaalia.contracts.offer import Listing
from kaalia.marketplace import agreements
from kaalia.marketplace.db.tables import charges, contracts, inet_rates, invoices, machines, rates, users, volumes
from kaalia.model.metering import TRAFFIC, Edge, Entry, Interval, Meter
from kaalia.wire import document
from kaalia.wire.protocol import MAX_CLOCK_SKEW_S

log = logging.getLogger(__name__)

SKEW = timedelta(seconds=MAX_CLOCK_SKEW_S)
_FREE = (ContractKind.DEFAULT_JOB, ContractKind.SELFTEST)
"""The owner's own work on his own machine."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """What the renter of a contract, or of a volume, owes at most: the prices, and what bounds the counts."""

    machine_id: int
    user_id: int
    start_at: datetime
    rates: tuple[Rate, ...]
    disk_bytes: int
    end_at: datetime | None
    """Of the right to run."""
    ended_at: datetime | None
    """The renter's destroy."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One line and whose it is."""

    charge_id: int
    line: Line
    quantity: int
    machine_id: int
    user_id: int
    host_id: int


@dataclass(frozen=True, slots=True)
class Use:
    """One interval, as far as the renter agreed to it, and all that its cost in any part of it depends on."""

    charge_id: int
    owed: Interval
    rates: tuple[Rate, ...]
    proven_at: datetime | None
    """The machine's last word while it goes on; None: it has ended."""
    machine_id: int
    user_id: int
    host_id: int
    quantity: int
    amount_usd: Decimal | None = None
    """Of traffic: what it cost, as it was written. It belongs to the moment at which it was told, whole."""

    def horizon(self, until: datetime) -> datetime:
        return until if self.proven_at is None else min(until, self.proven_at)


async def take(tx: AsyncConnection, machine_id: int, entries: Iterable[Entry], now: datetime) -> None:
    """Apply a machine's lines about times, in order. Lines about contracts of others are logged and change nothing."""
    machine = (await tx.execute(sa.select(machines).where(machines.c.id == machine_id))).one()
    heard_at = from_epoch(machine.last_seen_at) if machine.last_seen_at is not None else now
    for entry in entries:
        if entry.meter in (*TRAFFIC, Meter.ENERGY) or entry.edge is Edge.COUNT:
            continue
        agreed = await what_was_agreed(tx, entry.meter, entry.contract_id)
        if agreed is None or agreed.machine_id != machine_id:
            log.warning("foreign_contract: machine %d counted %s of %d", machine_id, entry.meter, entry.contract_id)
            continue
        believed = replace(entry, at=min(max(entry.at, agreed.start_at - SKEW), now + SKEW))
        await _follow(tx, agreed, machine.user_id, believed, heard_at)


async def _follow(tx: AsyncConnection, agreed: Agreed, host_id: int, entry: Entry, heard_at: datetime) -> None:
    query = sa.select(charges).where(charges.c.contract_id == entry.contract_id, charges.c.meter == entry.meter)
    row = (await tx.execute(query.order_by(charges.c.id.desc()).limit(1))).one_or_none()
    last = None if row is None else _interval(row)
    for interval in metering.follow(last, entry, heard_at):
        if row is not None and last is not None and interval.started_at == last.started_at:
            await _close(tx, row.id, agreed, interval)
        else:
            await charge(tx, agreed, host_id, interval)


async def charge(tx: AsyncConnection, agreed: Agreed, host_id: int, used: Interval, **settled: Any) -> None:
    """A new row of charges. `settled`: its end and its amount, where they are known already."""
    await tx.execute(
        sa.insert(charges).values(
            contract_id=used.contract_id,
            machine_id=agreed.machine_id,
            user_id=agreed.user_id,
            host_id=host_id,
            meter=used.meter,
            quantity=used.amount,
            started_at=used.started_at.timestamp(),
            **settled,
        )
    )


async def _close(tx: AsyncConnection, charge_id: int, agreed: Agreed, interval: Interval) -> None:
    if interval.ended_at is None:
        return
    owed = metering.lines(_owed(interval, agreed), agreed.rates, interval.started_at, interval.ended_at)
    await tx.execute(
        sa.update(charges)
        .where(charges.c.id == charge_id)
        .values(ended_at=interval.ended_at.timestamp(), amount=str(metering.total_usd(owed)))
    )


def rate(at: datetime, run_usd_per_hour: Decimal, terms: Listing) -> Rate:
    """What holds from then on: the contract's price, and the rest by the terms that were agreed."""
    disk, up, down = terms.price_disk_per_gb_month, terms.price_inet_up_per_gb, terms.price_inet_down_per_gb
    return Rate(at, run_usd_per_hour, disk, up, down)


async def set_rate(tx: AsyncConnection, contract_id: int, held: Rate) -> None:
    """A contract's prices from `held.valid_from` on. Called with each change of price, before it is written."""
    values = {
        "contract_id": contract_id,
        "valid_from": held.valid_from.timestamp(),
        "run_usd_per_hour": str(held.run_usd_per_hour),
        "disk_usd_per_gb_month": str(held.disk_usd_per_gb_month),
    }
    rate_id = (await tx.execute(sa.insert(rates).values(values).returning(rates.c.id))).scalar_one()
    traffic = {"up_usd_per_gb": str(held.inet_up_usd_per_gb), "down_usd_per_gb": str(held.inet_down_usd_per_gb)}
    await tx.execute(sa.insert(inet_rates).values(rate_id=rate_id, **traffic))


async def lines(tx: AsyncConnection, whose: sa.ColumnElement[bool], since: datetime, until: datetime) -> list[Charge]:
    """What was charged for use between `since` and `until`, oldest first. `whose`: a condition on `charges`."""
    return reckon(await load(tx, whose, since, until), since, until)


async def load(tx: AsyncConnection, whose: sa.ColumnElement[bool], since: datetime, until: datetime) -> list[Use]:
    """What was used between `since` and `until`, oldest first. `whose`: a condition on `charges`."""
    query = (
        sa.select(charges, machines.c.last_seen_at)
        .join(machines, machines.c.id == charges.c.machine_id, isouter=True)
        .where(whose, charges.c.started_at < until.timestamp())
        .where(sa.or_(charges.c.ended_at.is_(None), charges.c.ended_at > since.timestamp()))
        .order_by(charges.c.started_at, charges.c.id)
    )
    rows = (await tx.execute(query)).all()
    known = {key: await what_was_agreed(tx, *key) for key in {_whose_terms(row) for row in rows}}
    found = []
    for row in rows:
        agreed = known[_whose_terms(row)]
        if agreed is None:
            continue
        if row.meter in TRAFFIC:
            found.append(_told(row))
            continue
        proven_at = None if row.ended_at is not None else from_epoch(row.last_seen_at or row.started_at)
        owed = _owed(_interval(row), agreed)
        found.append(Use(row.id, owed, agreed.rates, proven_at, row.machine_id, row.user_id, row.host_id, row.quantity))
    return found


def reckon(used: Iterable[Use], since: datetime, until: datetime) -> list[Charge]:
    """What it costs between `since` and `until`, in the same order."""
    return [
        Charge(one.charge_id, line, one.quantity, one.machine_id, one.user_id, one.host_id)
        for one in used
        for line in _lines(one, since, until)
    ]


def _lines(used: Use, since: datetime, until: datetime) -> tuple[Line, ...]:
    owed = used.owed
    if used.amount_usd is None or owed.ended_at is None:
        return metering.lines(owed, used.rates, since, used.horizon(until))
    told = Line(owed.contract_id, owed.meter, owed.started_at, owed.ended_at, Decimal(0), used.amount_usd)
    return (told,) if since < owed.ended_at <= until else ()


def _whose_terms(row: sa.Row[Any]) -> tuple[Meter, int]:
    """What `_agreed` tells apart: run and disk of a contract go by one agreement."""
    return Meter.VOLUME if row.meter == Meter.VOLUME else Meter.RUN, row.contract_id


async def spent(tx: AsyncConnection, whose: sa.ColumnElement[bool], now: datetime) -> Decimal:
    """US dollars of everything so far: what has ended as it was written, and what goes on up to now."""
    done = await tx.scalars(sa.select(charges.c.amount).where(whose, charges.c.amount.is_not(None)))
    total = sum((Decimal(amount) for amount in done), Decimal(0))
    still = await lines(tx, sa.and_(whose, charges.c.ended_at.is_(None)), from_epoch(0), now)
    return total + metering.total_usd(charge.line for charge in still)


async def credit(tx: AsyncConnection, user_id: int, now: datetime) -> Decimal:
    """What a user has left: what was put in, less what was charged."""
    put_in = Decimal((await tx.execute(sa.select(users.c.credit).where(users.c.id == user_id))).scalar_one())
    return put_in - await spent(tx, charges.c.user_id == user_id, now)


async def note_invoice(
    tx: AsyncConnection, user_id: int, amount: Decimal, kind: str, service: str, description: str, now: datetime
) -> None:
    """Write down what changed `users.credit` (the caller changes it): positive in, negative out."""
    await tx.execute(
        sa.insert(invoices).values(
            user_id=user_id,
            when=now.timestamp(),
            paid_on=now.timestamp(),
            amount=str(amount),
            type=kind,
            service=service,
            description=description,
        )
    )


async def invoices_of(tx: AsyncConnection, user_id: int) -> Sequence[sa.Row[Any]]:
    return (await tx.execute(sa.select(invoices).where(invoices.c.user_id == user_id).order_by(invoices.c.id))).all()


async def intervals(tx: AsyncConnection, contract_id: int, *meters: Meter) -> tuple[Interval, ...]:
    """What was counted of a contract, as its machine said it; with Meter.VOLUME of the volume of that number."""
    mine = sa.and_(charges.c.contract_id == contract_id, charges.c.meter.in_(meters or (Meter.RUN, Meter.DISK)))
    query = sa.select(charges).where(mine).order_by(charges.c.started_at, charges.c.id)
    return tuple(_interval(row) for row in await tx.execute(query))


async def what_was_agreed(tx: AsyncConnection, meter: Meter, number: int) -> Agreed | None:
    """None: there is no such contract, or volume when `meter` is VOLUME."""
    if meter is Meter.VOLUME:
        return await _agreed_volume(tx, number)
    row = (await tx.execute(_with_owner(contracts).where(contracts.c.id == number))).one_or_none()
    if row is None:
        return None
    contract = document.decode(Contract, row.document)
    return Agreed(
        machine_id=row.machine_id,
        user_id=row.user_id,
        start_at=from_epoch(row.start_date),
        rates=await _rates(tx, row),
        disk_bytes=contract.spec.disk_bytes,
        end_at=contract.end_at,
        ended_at=None if row.ended_at is None else from_epoch(row.ended_at),
    )


async def _agreed_volume(tx: AsyncConnection, volume_id: int) -> Agreed | None:
    row = (await tx.execute(_with_owner(volumes).where(volumes.c.id == volume_id))).one_or_none()
    if row is None:
        return None
    start_at = from_epoch(row.start_date)
    price = Decimal(0) if row.user_id == row.owner_id else Decimal(row.price_per_gb_month)
    return Agreed(
        machine_id=row.machine_id,
        user_id=row.user_id,
        start_at=start_at,
        rates=(Rate(start_at, Decimal(0), price),),
        disk_bytes=row.size_bytes,
        end_at=None,
        ended_at=None if row.ended_at is None else from_epoch(row.ended_at),
    )


def _with_owner(rented: sa.Table) -> sa.Select[Any]:
    """Rows of contracts or volumes, with the `owner_id` of their machine: nobody pays himself."""
    return sa.select(rented, machines.c.user_id.label("owner_id")).join(machines, machines.c.id == rented.c.machine_id)


async def _rates(tx: AsyncConnection, row: sa.Row[Any]) -> tuple[Rate, ...]:
    contract = document.decode(Contract, row.document)
    if contract.kind in _FREE or row.user_id == row.owner_id:
        return (Rate(contract.start_at, Decimal(0), Decimal(0)),)
    terms = document.decode(Listing, row.price_terms)
    found = tuple([_held(one, terms) for one in await tx.execute(_rows_of_rates(row.id))])
    first = found or (rate(contract.start_at, contract.price_usd_per_hour, terms),)
    # An accepted increase holds to the second, whenever it is written into the contract.
    steps = (await agreements.standing(tx, row)).steps
    return (*first, *(_rate(step.at, step.agreed) for step in steps))


def _rows_of_rates(contract_id: int) -> sa.Select[Any]:
    joined = rates.join(inet_rates, inet_rates.c.rate_id == rates.c.id, isouter=True)
    query = sa.select(rates, inet_rates.c.up_usd_per_gb, inet_rates.c.down_usd_per_gb).select_from(joined)
    return query.where(rates.c.contract_id == contract_id).order_by(rates.c.valid_from, rates.c.id)


def _held(row: sa.Row[Any], terms: Listing) -> Rate:
    """A row of an older marketplace says nothing of traffic: then the terms do."""
    by_terms = rate(from_epoch(row.valid_from), Decimal(row.run_usd_per_hour), terms)
    held = replace(by_terms, disk_usd_per_gb_month=Decimal(row.disk_usd_per_gb_month))
    if row.up_usd_per_gb is None:
        return held
    up, down = Decimal(row.up_usd_per_gb), Decimal(row.down_usd_per_gb)
    return replace(held, inet_up_usd_per_gb=up, inet_down_usd_per_gb=down)


def _rate(at: datetime, agreed: Agreement) -> Rate:
    return rate(at, agreed.contract.price_usd_per_hour, agreed.terms)


def _told(row: sa.Row[Any]) -> Use:
    """A charge for traffic."""
    ids = (row.machine_id, row.user_id, row.host_id)
    return Use(row.id, _interval(row), (), None, *ids, row.quantity, Decimal(row.amount))


def _owed(interval: Interval, agreed: Agreed) -> Interval:
    """The part of what was counted that the renter agreed to."""
    bounds = [interval.ended_at, agreed.ended_at, agreed.end_at if interval.meter is Meter.RUN else None]
    ends = [one for one in bounds if one is not None]
    amount = interval.amount if interval.meter is Meter.RUN else min(interval.amount, agreed.disk_bytes)
    ended_at = max(min(ends), interval.started_at) if ends else None
    return replace(interval, ended_at=ended_at, amount=amount)


def _interval(row: sa.Row[Any]) -> Interval:
    ended_at = None if row.ended_at is None else from_epoch(row.ended_at)
    return Interval(row.contract_id, Meter(row.meter), row.quantity, from_epoch(row.started_at), ended_at)
