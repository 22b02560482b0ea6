"""Volume offers: one a machine at most, listed with the machine or by itself, searched, and what is left of each.

A machine's volume offer ends when the machine's own offer does; an end of its own counts only without such an offer,
and is three months away when the owner names none.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import query, volume
from kaalia.contracts.offer import end_of_offer
from kaalia.marketplace import listings, liveness, machines, terms
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import volume_offers, volumes
from kaalia.marketplace.machines import MachineRecord
from kaalia.units import GB
from kaalia.wire import volume as wire
from kaalia.wire.error import ApiError

SIZE_GB_MAX = 10_000_000
ROWS_MAX = 1000
LIFE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class VolumeOffer:
    """One offer. `space_bytes`: what can be rented now; `end_at`: when a volume rented now would end."""

    id: int
    machine: MachineRecord
    size_gb: int
    price_per_gb_month: Decimal
    space_bytes: int
    start_at: datetime
    end_at: datetime | None


async def follow_machine(tx: AsyncConnection, machine: MachineRecord, body: dict[str, Any], now: datetime) -> None:
    """Apply `vol_size` and `vol_price` of `list machine`; `machine` holds its new listing.

    Null keeps what is listed; where nothing is, half of the free disk at the price of disk. A size of 0: no offer.
    """
    if machine.listing is None:
        raise RuntimeError(f"machine {machine.id} is not listed")
    known = await _row(tx, machine.id)
    if known is None or not known.is_listed:
        left = await listings.free(tx, machine, now)
        size_gb, price = volume.default_size_gb(left.disk_bytes), machine.listing.price_disk_per_gb_month
    else:
        size_gb, price = known.size_gb, Decimal(known.price_per_gb_month)
    if body.get("vol_size") is not None:
        size_gb = _size_gb("vol_size", body["vol_size"], least=0)
        _check_fits(machine, size_gb, "vol_size")
    if body.get("vol_price") is not None:
        if size_gb == 0 and body.get("vol_size") is not None:
            message = "cannot list with this vol_price: vol_size is 0, so there is nothing to price"
            raise ApiError(400, "invalid_args", message, remedy="Leave vol_price out, or list a size")
        price = terms.money("vol_price", body["vol_price"])
    await _put(tx, machine.id, size_gb, price, None, now)


async def list_alone(tx: AsyncConnection, machine: MachineRecord, body: dict[str, Any], now: datetime) -> int:
    """`list volume`: the offer's id. Raises ApiError 400, 409."""
    if machine.report is None:
        message = f"cannot list a volume of machine {machine.id}: its daemon has not reported yet"
        raise ApiError(409, "machine_not_ready", message, remedy="Start the daemon and see `kaalia status`")
    size_gb = _size_gb("size", body.get("size", 15), least=1)
    _check_fits(machine, size_gb, "size")
    price = terms.money("price_disk", body.get("price_disk", "0.10"))
    return await _put(tx, machine.id, size_gb, price, _end_at(body.get("end_date"), now), now)


async def unlist_of(tx: AsyncConnection, machine_id: int) -> None:
    """End the machine's offer. Rented volumes go on."""
    await tx.execute(sa.update(volume_offers).where(volume_offers.c.machine_id == machine_id).values(is_listed=False))


async def unlist(tx: AsyncConnection, user_id: int, offer_id: int) -> None:
    """Raises ApiError 404 `no_such_offer` for one that is not listed, or another owner's."""
    row = (await tx.execute(_listed().where(volume_offers.c.id == offer_id))).one_or_none()
    machine = None if row is None else await machines.get(tx, row.machine_id)
    if row is None or machine is None or machine.user_id != user_id:
        raise _no_such_offer(offer_id)
    await unlist_of(tx, machine.id)


async def get(context: Context, tx: AsyncConnection, offer_id: int, now: datetime) -> VolumeOffer:
    """An offer that can be rented now. Raises ApiError 404 `no_such_offer`."""
    row = (await tx.execute(_listed().where(volume_offers.c.id == offer_id))).one_or_none()
    machine = None if row is None else await machines.get(tx, row.machine_id)
    if row is None or machine is None:
        raise _no_such_offer(offer_id)
    left = await listings.free(tx, machine, now)
    offer = _offer(row, machine, left.disk_bytes, (await _rented(tx)).get(row.id, 0), now)
    if not _is_open(context, offer, now):
        raise _no_such_offer(offer_id)
    return offer


async def of_machine(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> VolumeOffer | None:
    """The listed offer of a machine, rentable now or not."""
    row = (await tx.execute(_listed().where(volume_offers.c.machine_id == machine.id))).one_or_none()
    if row is None:
        return None
    left = await listings.free(tx, machine, now)
    return _offer(row, machine, left.disk_bytes, (await _rented(tx)).get(row.id, 0), now)


async def search(context: Context, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for `POST /volumes/search/`. Raises ContractError `filter_invalid`, ApiError 400."""
    filters = {field: value for field, value in body.items() if isinstance(value, dict)}
    query.check(filters)
    order = body.get("order") or [["score", "desc"]]
    if not isinstance(order, list) or not all(isinstance(term, list) for term in order):
        raise ApiError(400, "invalid_args", "cannot search: order is no list of pairs", remedy='Send [["id", "asc"]]')
    storage_gb = Decimal(str(terms.money("allocated_storage", body.get("allocated_storage") or 1, 1e9)))
    limit = int(terms.money("limit", body.get("limit") or ROWS_MAX, 1e9))
    now = context.clock.now()
    async with context.engine.begin() as tx:
        offers = await _everything(tx, now)

    def answer() -> list[dict[str, Any]]:
        found = [_shown(context, offer, storage_gb, now) for offer in offers if _is_open(context, offer, now)]
        rows = query.sort([row for row in found if query.matches(row, filters)], order)
        return rows[: min(limit, ROWS_MAX)]

    # Thousands of rows take longer than an event loop may be blocked.
    return await asyncio.to_thread(answer)


def _shown(context: Context, offer: VolumeOffer, storage_gb: Decimal, now: datetime) -> dict[str, Any]:
    machine = offer.machine
    if machine.report is None:
        raise RuntimeError(f"machine {machine.id} never reported")
    return wire.encode_offer(
        wire.VolumeOffer(
            offer_id=offer.id,
            machine_id=machine.id,
            host_id=machine.user_id,
            report=machine.report,
            space_bytes=offer.space_bytes,
            price_per_gb_month=offer.price_per_gb_month,
            reliability=liveness.reliability(machine, now, context.settings.offline_after_s, context.away),
            verification=machine.verification,
            start_at=offer.start_at,
            end_at=offer.end_at,
        ),
        storage_gb,
        now,
    )


async def _everything(tx: AsyncConnection, now: datetime) -> list[VolumeOffer]:
    rented = await _rented(tx)
    places = {machine.id: (machine, left) for machine, left, _ in await listings.everything(tx, now)}
    rows = [row for row in await tx.execute(_listed().order_by(volume_offers.c.id)) if row.machine_id in places]
    return [
        _offer(row, places[row.machine_id][0], places[row.machine_id][1].disk_bytes, rented.get(row.id, 0), now)
        for row in rows
    ]


def _offer(row: sa.Row[Any], machine: MachineRecord, free_bytes: int, rented: int, now: datetime) -> VolumeOffer:
    own_end = None if row.end_at is None else from_epoch(row.end_at)
    return VolumeOffer(
        id=row.id,
        machine=machine,
        size_gb=row.size_gb,
        price_per_gb_month=Decimal(row.price_per_gb_month),
        space_bytes=volume.offer_space(row.size_gb * GB, rented, free_bytes),
        start_at=from_epoch(row.created_at),
        end_at=end_of_offer(machine.listing, now) if machine.listing else own_end,
    )


def _is_open(context: Context, offer: VolumeOffer, now: datetime) -> bool:
    has_time = offer.end_at is None or now < offer.end_at
    is_online = liveness.is_online(offer.machine, now, context.settings) and not offer.machine.is_cordoned(now)
    return has_time and is_online and offer.space_bytes >= volume.MIN_VOLUME_GB * GB


async def _put(
    tx: AsyncConnection, machine_id: int, size_gb: int, price: Decimal, end_at: float | None, now: datetime
) -> int:
    values = {"size_gb": size_gb, "price_per_gb_month": str(price), "end_at": end_at, "is_listed": True}
    known = await _row(tx, machine_id)
    if known is not None:
        await tx.execute(sa.update(volume_offers).where(volume_offers.c.id == known.id).values(values))
        return int(known.id)
    new = {**values, "machine_id": machine_id, "created_at": now.timestamp()}
    return int((await tx.execute(sa.insert(volume_offers).values(new).returning(volume_offers.c.id))).scalar_one())


async def _row(tx: AsyncConnection, machine_id: int) -> sa.Row[Any] | None:
    query_ = sa.select(volume_offers).where(volume_offers.c.machine_id == machine_id)
    row: sa.Row[Any] | None = (await tx.execute(query_)).one_or_none()
    return row


async def _rented(tx: AsyncConnection) -> dict[int, int]:
    """Bytes rented of each offer."""
    total = sa.func.sum(volumes.c.size_bytes).label("total")
    rows = await tx.execute(
        sa.select(volumes.c.offer_id, total).where(volumes.c.removed_at.is_(None)).group_by(volumes.c.offer_id)
    )
    return {row.offer_id: int(row.total) for row in rows}


def _listed() -> sa.Select[Any]:
    return sa.select(volume_offers).where(volume_offers.c.is_listed, volume_offers.c.size_gb > 0)


def _size_gb(name: str, value: Any, least: int) -> int:
    number = terms.money(name, value, SIZE_GB_MAX)
    if number != int(number) or number < least:
        message = f"cannot list with {name}={value}: it is no whole number of GB from {least} on"
        raise ApiError(400, "invalid_args", message, remedy=f"Correct {name}")
    return int(number)


def _check_fits(machine: MachineRecord, size_gb: int, name: str) -> None:
    disk = machine.report.disk if machine.report else None
    total_gb = disk.total_bytes // GB if disk else 0
    if size_gb > total_gb:
        message = f"cannot list with {name}={size_gb}: the machine's disk has {total_gb} GB"
        raise ApiError(400, "invalid_args", message, remedy=f"List {total_gb} GB or less")


def _end_at(end_date: Any, now: datetime) -> float:
    if end_date is None:
        return (now + LIFE).timestamp()
    epoch = float(terms.money("end_date", end_date, 32503680000))  # the year 3000
    if epoch <= now.timestamp():
        message = f"cannot list with end_date={end_date}: it is past"
        raise ApiError(400, "invalid_args", message, remedy="Give a later date")
    return epoch


def _no_such_offer(offer_id: int) -> ApiError:
    message = f"cannot find volume offer {offer_id}: there is none, or it is no longer available"
    return ApiError(404, "no_such_offer", message, remedy="`vastai search volumes` shows what is")
