"""Rented volumes: create, show, mount, copy, delete; and what their machine says of them until they are proven gone.

A volume is local to its machine. It cannot be deleted while an instance mounts it; somebody else's is not there.
Its price and its end are those of the offer at rental (`volume_leases` moves the end).
"""

import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import volume as rules
from kaalia.contracts.contract import Contract
from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.errors import ContractError
from kaalia.marketplace import liveness, machines, volume_offers
from kaalia.marketplace.context import Context
from kaalia.marketplace.create_request import CreateRequest
from kaalia.marketplace.db.tables import contracts, users, volumes
from kaalia.marketplace.machines import MachineRecord
from kaalia.marketplace.routing import Caller
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.model.workload import VolumeMount
from kaalia.units import GB
from kaalia.wire import document
from kaalia.wire import volume as wire
from kaalia.wire.error import ApiError

REPEAT_WINDOW = timedelta(seconds=60)
"""A request that is repeated within it gets the volume it made before: the client repeats what was not answered.

A volume without a name is made anew as soon as the answer to the request before was read.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A volume to be made. `copy_of`: it begins as a copy of that one, which is on the same machine."""

    offer_id: int
    size_gb: Decimal
    name: str | None
    copy_of: int | None = None


async def rent(context: Context, caller: Caller, wanted: Wanted) -> int:
    """A new volume; its id. Raises ApiError 400, 403, 404."""
    now = context.clock.now()
    text = json.dumps([caller.user_id, wanted.offer_id, str(wanted.size_gb), wanted.name, wanted.copy_of])
    repeat_key = hashlib.sha256(text.encode()).hexdigest()
    async with context.engine.begin() as tx:
        earlier = sa.select(volumes.c.id, volumes.c.machine_id).where(
            volumes.c.idempotency_key == repeat_key,
            volumes.c.ended_at.is_(None),
            volumes.c.start_date > (now - REPEAT_WINDOW).timestamp(),
        )
        if (row := (await tx.execute(earlier)).first()) is not None:
            return int(row.id)
        volume_id, machine_id = await create(context, tx, caller, wanted, now, repeat_key)
    context.machine_bells.ring(machine_id)
    return volume_id


async def answered(context: Context, volume_id: int) -> None:
    """The caller is about to read what he rented: his next request with the same words is another volume.

    One with a name is told apart by that: the same name again is a repetition.
    """
    nameless = sa.and_(volumes.c.id == volume_id, volumes.c.name.is_(None))
    async with context.engine.begin() as tx:
        await tx.execute(sa.update(volumes).where(nameless).values(idempotency_key=None))


async def create(
    context: Context, tx: AsyncConnection, caller: Caller, wanted: Wanted, now: datetime, repeat_key: str | None = None
) -> tuple[int, int]:
    """(volume id, machine id). Ring the machine's bell after the commit."""
    offer = await volume_offers.get(context, tx, wanted.offer_id, now)
    # Raising the revision first locks the machine's row: of two renters of the last space the second one waits.
    await machines.bump(tx, offer.machine.id)
    offer = await volume_offers.get(context, tx, wanted.offer_id, now)
    if caller.is_host and offer.machine.user_id != caller.user_id:
        message = f"cannot rent volume offer {offer.id}: it is not your own, and hosts can only rent their own machines"
        raise ApiError(403, "invalid_args", message, remedy="Rent with an account that is no host")
    try:
        rules.check_size(wanted.size_gb, offer.space_bytes)
        name = rules.check_name(wanted.name)
    except ContractError as error:
        raise ApiError(400, error.code, error.problem.message, remedy=error.problem.remedy) from error
    await _refuse_second(tx, caller.user_id, name)
    row = {
        "machine_id": offer.machine.id,
        "user_id": caller.user_id,
        "offer_id": offer.id,
        "key": secrets.token_hex(16),
        "name": name,
        "size_bytes": int(wanted.size_gb * GB),
        "copy_of": wanted.copy_of,
        "price_per_gb_month": str(offer.price_per_gb_month),
        "start_date": now.timestamp(),
        "end_at": None if offer.end_at is None else offer.end_at.timestamp(),
        "idempotency_key": repeat_key,
    }
    volume_id = (await tx.execute(sa.insert(volumes).values(row).returning(volumes.c.id))).scalar_one()
    return int(volume_id), offer.machine.id


async def _refuse_second(tx: AsyncConnection, user_id: int, name: str | None) -> None:
    """A name tells a renter's volumes apart. Raises ApiError 409 `volume_name_taken`."""
    if name is None:
        return
    await tx.execute(sa.select(users.c.id).where(users.c.id == user_id).with_for_update())
    same = sa.select(volumes.c.id).where(
        volumes.c.user_id == user_id, volumes.c.name == name, volumes.c.ended_at.is_(None)
    )
    if (other := await tx.scalar(same)) is not None:
        message = f"cannot call a volume name={name!r}: your volume {other} has this name"
        raise ApiError(409, "volume_name_taken", message, remedy="Choose another name, or leave it out")


async def clone(context: Context, caller: Caller, source_id: int, offer_id: int, size_gb: Decimal | None) -> int:
    """A nameless volume that begins as a copy. Raises ApiError 400 `clone_elsewhere`, `volume_size_invalid`, 404."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        source = await owned(tx, caller, source_id)
        offer = await volume_offers.get(context, tx, offer_id, now)
    if offer.machine.id != source.machine_id:
        message = f"cannot clone volume {source_id} to offer {offer_id}: that is another machine"
        remedy = f"Choose a volume offer of machine {source.machine_id}, or copy with rsync between two instances"
        raise ApiError(400, "clone_elsewhere", message, remedy=remedy)
    size_gb = Decimal(source.size_bytes) / GB if size_gb is None else size_gb
    if size_gb * GB < source.size_bytes:
        message = f"cannot clone volume {source_id} to size={size_gb} GB: it has {source.size_bytes / GB:g} GB"
        raise ApiError(400, "volume_size_invalid", message, remedy="Give a size that is not smaller, or none")
    return await rent(context, caller, Wanted(offer_id, size_gb, None, source_id))


async def grant(
    context: Context, tx: AsyncConnection, caller: Caller, machine: MachineRecord, request: CreateRequest, now: datetime
) -> tuple[VolumeMount, ...]:
    """What a new instance mounts: volumes of the renter's on this machine, and the one it makes.

    Raises ApiError 404 `no_such_volume`, 400 `volume_elsewhere` or `volume_expired`, and those of `create`.
    """
    for mount in request.options.volumes:
        row = await owned(tx, caller, mount.volume_id)
        if row.machine_id != machine.id:
            message = f"cannot mount volume {row.id}: it is on machine {row.machine_id}, the offer on {machine.id}"
            remedy = f"Rent an offer of that machine: search with machine_id={row.machine_id}"
            raise ApiError(400, "volume_elsewhere", message, remedy=remedy)
        try:
            rules.check_mount(_volume(row), now)
        except ContractError as error:
            raise ApiError(400, error.code, error.problem.message, remedy=error.problem.remedy) from error
    new = request.new_volume
    if new is None:
        return request.options.volumes
    volume_id, machine_id = await create(context, tx, caller, Wanted(new.offer_id, new.size_gb, new.name), now)
    if machine_id != machine.id:
        message = f"cannot make a volume of offer {new.offer_id}: it is of machine {machine_id}, not {machine.id}"
        raise ApiError(400, "volume_elsewhere", message, remedy="Take the volume offer of the same machine")
    return (*request.options.volumes, VolumeMount(volume_id, new.path))


async def delete(context: Context, caller: Caller, volume_id: int) -> None:
    """End a volume: the machine removes the data, now or when it is back. Raises ApiError 404, 409 `volume_in_use`."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        row = await owned(tx, caller, volume_id)
        await machines.bump(tx, row.machine_id)
        if mounted_by := (await attachments(tx, [row.machine_id])).get(volume_id):
            names = ", ".join(map(str, mounted_by))
            message = f"cannot delete volume {volume_id}: instance {names} mounts it"
            raise ApiError(409, "volume_in_use", message, remedy="Destroy the instance first")
        await tx.execute(sa.update(volumes).where(volumes.c.id == volume_id).values(ended_at=now.timestamp()))
    context.machine_bells.ring(row.machine_id)


async def end_all(tx: AsyncConnection, machine_id: int, now: datetime) -> int:
    """End every volume of a machine; how many. Raise its revision and ring its bell as well."""
    alive = sa.and_(volumes.c.machine_id == machine_id, volumes.c.ended_at.is_(None))
    return (await tx.execute(sa.update(volumes).where(alive).values(ended_at=now.timestamp()))).rowcount


async def delete_expired(tx: AsyncConnection, machine_id: int, before: datetime, now: datetime) -> int:
    """End the volumes whose end was `before` and that no live instance mounts; how many."""
    old = sa.and_(
        volumes.c.machine_id == machine_id, volumes.c.ended_at.is_(None), volumes.c.end_at <= before.timestamp()
    )
    used = await attachments(tx, [machine_id])
    ids = [each for each in await tx.scalars(sa.select(volumes.c.id).where(old)) if each not in used]
    await tx.execute(sa.update(volumes).where(volumes.c.id.in_(ids)).values(ended_at=now.timestamp()))
    return len(ids)


async def shown(context: Context, caller: Caller) -> list[dict[str, Any]]:
    """The caller's volumes as the API shows them."""
    now = context.clock.now()
    mine = sa.select(volumes).where(volumes.c.user_id == caller.user_id, volumes.c.ended_at.is_(None))
    async with context.engine.begin() as tx:
        found = list(await tx.execute(mine.order_by(volumes.c.id)))
        owners = {row.machine_id: await machines.get(tx, row.machine_id) for row in found}
        mounted_by = await attachments(tx, owners)
    return [
        wire.encode(_rented(context, row, owners[row.machine_id], mounted_by.get(row.id, []), now), now)
        for row in found
    ]


async def mounts(tx: AsyncConnection, wanted: Mapping[int, Contract]) -> dict[int, list[dict[str, Any]]]:
    """`volume_info` of instances, by their ids."""
    ids = {mount.volume_id for contract in wanted.values() for mount in contract.spec.volumes}
    rows = {row.id: row for row in await tx.execute(sa.select(volumes).where(volumes.c.id.in_(ids)))} if ids else {}
    return {
        contract_id: [
            wire.encode_mount(mount.volume_id, mount.path, row.size_bytes, status.used_bytes if status else None)
            for mount in contract.spec.volumes
            if (row := rows.get(mount.volume_id)) is not None
            for status in (_status(row),)
        ]
        for contract_id, contract in wanted.items()
    }


async def attachments(tx: AsyncConnection, machine_ids: Mapping[int, Any] | list[int]) -> dict[int, list[int]]:
    """Which live instances mount which volume, on these machines."""
    rows = await tx.execute(
        sa.select(contracts.c.id, contracts.c.document).where(
            contracts.c.machine_id.in_(list(machine_ids)), contracts.c.ended_at.is_(None)
        )
    )
    mounted_by: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        for mount in document.decode(Contract, row.document).spec.volumes:
            mounted_by[mount.volume_id].append(row.id)
    return mounted_by


# The machine's side


async def of_machine(tx: AsyncConnection, machine_id: int) -> tuple[Volume, ...]:
    """What the machine is told: every volume that it has not proven gone."""
    query = sa.select(volumes).where(volumes.c.machine_id == machine_id, volumes.c.removed_at.is_(None))
    return tuple(_volume(row) for row in await tx.execute(query.order_by(volumes.c.id)))


async def record(tx: AsyncConnection, machine_id: int, status: VolumeStatus, now: datetime) -> bool:
    """Keep the machine's newest word on a volume of its own. True: it is proven gone, so the machine must be told."""
    row = (
        await tx.execute(sa.select(volumes).where(volumes.c.id == status.volume_id, volumes.c.machine_id == machine_id))
    ).one_or_none()
    if row is None or row.removed_at is not None:
        return False
    known = _status(row)
    if known is not None and status.as_of < known.as_of:
        return False
    is_gone = status.state is VolumeState.ENDED and row.ended_at is not None
    values: dict[str, Any] = {"status": document.encode(status)}
    if is_gone:
        values["removed_at"] = now.timestamp()
        await machines.bump(tx, machine_id)
    await tx.execute(sa.update(volumes).where(volumes.c.id == row.id).values(values))
    return is_gone


async def owned(tx: AsyncConnection, caller: Caller, volume_id: int) -> sa.Row[Any]:
    """One live volume of the caller's, locked. Raises ApiError 404 `no_such_volume`."""
    query = sa.select(volumes).where(
        volumes.c.id == volume_id, volumes.c.user_id == caller.user_id, volumes.c.ended_at.is_(None)
    )
    row = (await tx.execute(query.with_for_update())).one_or_none()
    if row is None:
        message = f"cannot find volume {volume_id}: no such volume of yours"
        raise ApiError(404, "no_such_volume", message, remedy="`vastai show volumes` lists yours")
    return row


def _volume(row: sa.Row[Any]) -> Volume:
    desired = VolumeDesired.PRESENT if row.ended_at is None else VolumeDesired.ENDED
    end_at = None if row.end_at is None else from_epoch(row.end_at)
    return Volume(row.id, row.key, row.size_bytes, desired, row.copy_of, end_at)


def _status(row: sa.Row[Any]) -> VolumeStatus | None:
    return None if row.status is None else document.decode(VolumeStatus, row.status)


def _rented(
    context: Context, row: sa.Row[Any], machine: MachineRecord | None, mounted_by: list[int], now: datetime
) -> wire.RentedVolume:
    if machine is None or machine.report is None:
        raise RuntimeError(f"volume {row.id} is on a machine that never reported")
    return wire.RentedVolume(
        volume=_volume(row),
        status=_status(row),
        name=row.name,
        offer_id=row.offer_id,
        machine_id=machine.id,
        host_id=machine.user_id,
        report=machine.report,
        price_per_gb_month=Decimal(row.price_per_gb_month),
        reliability=liveness.reliability(machine, now, context.settings.offline_after_s, context.away),
        verification=machine.verification,
        online=liveness.is_online(machine, now, context.settings),
        start_at=from_epoch(row.start_date),
        instances=tuple(mounted_by),
    )
