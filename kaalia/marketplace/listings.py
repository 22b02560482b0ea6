"""Which slices of a machine are on offer: the ask rows, what is still free, and which of them can be rented.

The rows only keep ids stable; whether one is rentable is worked out from what live contracts hold, each time.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import arbitration, cordon, maintenance, offer
from kaalia.contracts.contract import OWN_KINDS, Contract, Desired, is_expired
from kaalia.errors import Problem
from kaalia.marketplace import liveness, machines, volume_space
from kaalia.marketplace.context import Settings
from kaalia.marketplace.db.tables import asks, contracts
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.machine import Disk
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.wire.machine import Rental

_CONTRACT = TypeAdapter(Contract)
_STATUS = TypeAdapter(WorkloadStatus)

HOLDS_GPUS = frozenset(
    {
        WorkloadState.PULLING,
        WorkloadState.CREATING,
        WorkloadState.STARTING,
        WorkloadState.RUNNING,
        WorkloadState.STOPPING,
        WorkloadState.REMOVING,
        WorkloadState.UNKNOWN,
    }
)
"""States in which a workload that should not run may still have its GPUs."""


@dataclass(frozen=True, slots=True)
class Free:
    """What a new contract may have. GPUs are held while a workload runs or should run, disk until it is removed.

    GPUs of interruptible contracts and default jobs count as free: they give way. `idle`: nobody rents any GPUs, or,
    on a machine without GPUs, the machine itself. `rivals`: the contracts that shall run.
    """

    gpus: int
    disk_bytes: int
    idle: bool
    rivals: tuple[Contract, ...] = ()

    def bid_to_win(self, gpu_count: int, num_gpus: int, floor: Decimal) -> Decimal | None:
        """Per GPU; see `arbitration.bid_to_win`."""
        return arbitration.bid_to_win(self.rivals, num_gpus, gpu_count, floor)


@dataclass(frozen=True, slots=True)
class AskRecord:
    """One slice. `rentable`: the machine is listed and has the GPUs; whether it is online is `can_rent`'s question."""

    id: int
    machine_id: int
    num_gpus: int
    contract_id: int | None
    rentable: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Live:
    """A contract that is not proven gone, and whether it shall run."""

    contract: Contract
    rental: Rental
    wants_gpus: bool


async def refresh_asks(tx: AsyncConnection, machine_id: int, now: datetime) -> None:
    """Make the rows fit. Call after a report, a listing, a rental, and when a contract stops holding its GPUs."""
    machine = await machines.get(tx, machine_id)
    if machine is None:
        return
    live = await _live(tx, machine_id, now)
    released = await _release(tx, machine_id, set(live))
    rows = await _rows(tx, machine_id)
    if machine.listing is not None and not _can_count(machine, rows):
        return
    firm = {number for number, one in live.items() if arbitration.is_firm(one.contract.kind)}
    wanted = _wanted(machine, _free(machine, live.values(), 0), rows, firm)
    spare: Counter[int] = Counter()
    surplus = []
    # Others may be looking at those that were on offer all the time: of too many, the ones just given back go.
    for row in sorted(rows, key=lambda row: row.id in released):
        if row.contract_id is None:
            spare[row.num_gpus] += 1
            if spare[row.num_gpus] > wanted.get(row.num_gpus, 0):
                surplus.append(row.id)
    if surplus:
        await tx.execute(sa.delete(asks).where(asks.c.id.in_(surplus)))
    missing = [size for size, count in sorted(wanted.items()) for _ in range(count - spare[size])]
    for size in missing:
        await tx.execute(sa.insert(asks).values(machine_id=machine_id, num_gpus=size, created_at=now.timestamp()))


async def can_count(tx: AsyncConnection, machine: MachineRecord) -> bool:
    """False while a GPU or the driver fails: the slices stay as they are, and only those that fit can be rented.

    A machine that is listed with GPUs never turns into one without by itself, at the price of a GPU.
    """
    return _can_count(machine, await _rows(tx, machine.id))


async def machine_of(tx: AsyncConnection, ask_id: int) -> int | None:
    """None: there is no such slice."""
    return await tx.scalar(sa.select(asks.c.machine_id).where(asks.c.id == ask_id))


async def of(tx: AsyncConnection, machine: MachineRecord, left: Free) -> list[AskRecord]:
    """The slices of one machine."""
    return of_machine(machine, left, await _rows(tx, machine.id))


async def free(tx: AsyncConnection, machine: MachineRecord, now: datetime) -> Free:
    return _free(
        machine, (await _live(tx, machine.id, now)).values(), await volume_space.promised_bytes(tx, machine.id)
    )


async def rentals(tx: AsyncConnection, machine_id: int, now: datetime) -> list[Rental]:
    """The contracts of a machine that are not proven gone."""
    return [one.rental for one in (await _live(tx, machine_id, now)).values()]


def can_rent(record: AskRecord, machine: MachineRecord, now: datetime, settings: Settings) -> bool:
    """The slice is free, and the machine is listed, not past its end date, online, and not closed for a while."""
    if machine.listing is None or not record.rentable:
        return False
    end_at = offer.end_of_offer(machine.listing, now)
    is_open = (end_at is None or now < end_at) and why_closed(machine, end_at, now) is None
    return is_open and liveness.is_online(machine, now, settings)


def why_closed(machine: MachineRecord, end_at: datetime | None, now: datetime) -> Problem | None:
    """Why no contract can be made now that would run until `end_at`: the owner drains the machine, or works on it soon.

    None: it can, as far as the owner goes.
    """
    if machine.cordon is not None and machine.is_cordoned(now):
        return Problem(
            "machine_draining",
            f"cannot use machine {machine.id}: {cordon.words(machine.cordon)}",
            "Search again and rent another offer",
        )
    window = maintenance.obstacle(end_at, machine.windows, now)
    if window is None:
        return None
    return Problem(
        "maintenance_overlap",
        f"cannot use machine {machine.id}: its owner works on it {maintenance.words(window)}",
        "Search again and rent another offer, or wait until then",
    )


def end_of_contract(machine: MachineRecord, now: datetime) -> datetime | None:
    """When a contract made now would end: with the listing, or when the next maintenance begins. None: no end."""
    end_at = None if machine.listing is None else offer.end_of_offer(machine.listing, now)
    return maintenance.cut(end_at, machine.windows, now)


def of_machine(machine: MachineRecord, left: Free, rows: list[sa.Row[Any]]) -> list[AskRecord]:
    """The slices of one machine, each knowing whether the free GPUs suffice for it and its elder equals."""
    used: Counter[int] = Counter()
    records = []
    for row in rows:
        fits = False
        if row.contract_id is None and machine.listing is not None:
            used[row.num_gpus] += 1
            fits = used[row.num_gpus] <= _fitting(row.num_gpus, left)
        records.append(
            AskRecord(row.id, row.machine_id, row.num_gpus, row.contract_id, fits, from_epoch(row.created_at))
        )
    return records


async def everything(tx: AsyncConnection, now: datetime) -> list[tuple[MachineRecord, Free, list[AskRecord]]]:
    """All machines that reported, what is free on them, and their slices: four queries whatever their number."""
    found = await machines.reported(tx)
    live: dict[int, list[_Live]] = defaultdict(list)
    for row in await tx.execute(_live_query()):
        live[row.machine_id].append(_one_live(row, now))
    rows: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in await tx.execute(sa.select(asks).order_by(asks.c.id)):
        rows[row.machine_id].append(row)
    promised = await volume_space.promised_everywhere(tx)
    result = []
    for machine in found.values():
        left = _free(machine, live[machine.id], promised.get(machine.id, 0))
        result.append((machine, left, of_machine(machine, left, rows[machine.id])))
    return result


@lru_cache(maxsize=4096)
def _contract(document: str) -> Contract:
    # A search decodes every live contract; most have not changed since the last search.
    return _CONTRACT.validate_json(document)


@lru_cache(maxsize=4096)
def _status(document: str) -> WorkloadStatus:
    return _STATUS.validate_json(document)


def _one_live(row: sa.Row[Any], now: datetime) -> _Live:
    contract = _contract(row.document)
    status = None if row.status is None else _status(row.status)
    has_gpus = status is not None and status.state in HOLDS_GPUS
    wants_gpus = _wants_gpus(contract, status, now)
    rental = Rental(
        kind=contract.kind,
        gpus=contract.spec.gpu_count,
        disk_bytes=contract.spec.disk_bytes,
        holds_gpus=has_gpus or (wants_gpus and arbitration.is_firm(contract.kind)),
        price_usd_per_hour=contract.price_usd_per_hour,
        end_at=contract.end_at,
    )
    return _Live(contract, rental, wants_gpus)


def _wants_gpus(contract: Contract, status: WorkloadStatus | None, now: datetime) -> bool:
    """It should run, and its machine has not given it up.

    Whether its time is over is this marketplace's to say: the clock of a machine decides nothing here.
    """
    if contract.desired is not Desired.RUNNING or is_expired(contract, now):
        return False
    if status is None or status.generation < contract.generation:
        return True
    return status.state is not WorkloadState.REJECTED


def _live_query() -> sa.Select[Any]:
    return sa.select(contracts.c.id, contracts.c.machine_id, contracts.c.document, contracts.c.status).where(
        contracts.c.removed_at.is_(None)
    )


async def _live(tx: AsyncConnection, machine_id: int, now: datetime) -> dict[int, _Live]:
    rows = await tx.execute(_live_query().where(contracts.c.machine_id == machine_id))
    return {row.id: _one_live(row, now) for row in rows}


async def _rows(tx: AsyncConnection, machine_id: int) -> list[sa.Row[Any]]:
    return list(await tx.execute(sa.select(asks).where(asks.c.machine_id == machine_id).order_by(asks.c.id)))


async def _release(tx: AsyncConnection, machine_id: int, live: set[int]) -> set[int]:
    """A slice whose contract is gone is on offer again, under its old id. Returns those ids."""
    is_over = sa.and_(asks.c.machine_id == machine_id, asks.c.contract_id.is_not(None), asks.c.contract_id.not_in(live))
    released = await tx.scalars(sa.update(asks).where(is_over).values(contract_id=None).returning(asks.c.id))
    return set(released)


def _free(machine: MachineRecord, live: Collection[_Live], volume_bytes: int) -> Free:
    held = [one.rental for one in live if one.rental.holds_gpus and one.contract.kind not in OWN_KINDS]
    firm = [rental for rental in held if arbitration.is_firm(rental.kind)]
    disk = machine.report.disk if machine.report else None
    promised = volume_bytes + sum(one.rental.disk_bytes for one in live)
    return Free(
        gpus=max(0, machine.num_gpus - sum(rental.gpus for rental in firm)),
        disk_bytes=max(0, _unpromised(disk, promised)) if disk else 0,
        idle=not held,
        rivals=tuple(one.contract for one in live if one.wants_gpus),
    )


def _unpromised(disk: Disk, promised: int) -> int:
    """What can still be promised: neither filled by others than renters, nor promised to one who has not filled it."""
    if disk.others_bytes is None:
        return min(disk.free_bytes, disk.total_bytes - promised)
    return disk.total_bytes - disk.others_bytes - promised


def _can_count(machine: MachineRecord, rows: list[sa.Row[Any]]) -> bool:
    return machine.gpus_known and not (machine.num_gpus == 0 and any(row.num_gpus > 0 for row in rows))


def _wanted(machine: MachineRecord, left: Free, rows: list[sa.Row[Any]], firm: Collection[int]) -> dict[int, int]:
    """How many unrented rows of each size there should be: enough for the free GPUs, and no id lost meanwhile.

    Rows of contracts that are not `firm` count as if they were free: others may take their GPUs.
    """
    if machine.listing is None or machine.report is None:
        return {}
    rented = Counter(row.num_gpus for row in rows if row.contract_id in firm)
    whole = Free(machine.num_gpus, 0, idle=True)
    return {
        size: max(_fitting(size, left), _fitting(size, whole) - rented[size])
        for size in offer.sizes(machine.num_gpus, machine.listing.min_gpu)
    }


def _fitting(size: int, left: Free) -> int:
    if size == 0:
        return 1 if left.idle else 0
    return offer.slice_count(size, left.gpus)
