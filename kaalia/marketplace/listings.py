"""Which slices of a machine are on offer: the ask rows, what is still free, and which of them can be rented.

The rows only keep ids stable; whether one is rentable is worked out from what live contracts hold, each time.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import arbitration, cordon, fitness, maintenance, offer
from kaalia.contracts.contract import OWN_KINDS, Contract, Desired, is_expired
from kaalia.contracts.vacancy import NO_MODEL, Holder, Vacancy, vacancies
from kaalia.errors import Problem
from kaalia.marketplace import liveness, machines, volume_space
from kaalia.marketplace.context import Settings
from kaalia.marketplace.db.fitness_tables import ask_models
from kaalia.marketplace.db.tables import asks, contracts
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.machine import Disk
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.wire.machine import Rental

log = logging.getLogger(__name__)

_Slice = tuple[str, int]
"""Of which model, and how many GPUs."""
_MANY = "?"
"""In the place of a model: the slice is of a machine of several, and was made when it had one."""
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
    """What a new contract may have: GPUs by model, see `contracts.vacancy`; disk is held until it is removed.

    `idle`: nobody rents any GPUs, or, on a machine without GPUs, the machine itself.
    """

    groups: Mapping[str, Vacancy]
    disk_bytes: int
    idle: bool

    @property
    def gpus(self) -> int:
        """Of all models."""
        return sum(one.free for one in self.groups.values())

    def of_contract(self, contract: Contract) -> Vacancy | None:
        """Of the model that it has; None: it is not known, or the machine has it no more."""
        if contract.gpu_model is None and len(self.groups) == 1:
            return next(iter(self.groups.values()))
        return self.groups.get(contract.gpu_model or NO_MODEL)


@dataclass(frozen=True, slots=True)
class AskRecord:
    """One slice. `rentable`: the machine is listed and has the GPUs; whether it is online is `can_rent`'s question.

    `model`: as in `Free.groups`, or one that the machine has no more.
    """

    id: int
    machine_id: int
    model: str
    num_gpus: int
    contract_id: int | None
    rentable: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _Live:
    """A contract that is not proven gone, and whether it shall run."""

    contract: Contract
    rental: Rental
    holder: Holder


async def refresh_asks(tx: AsyncConnection, machine_id: int, now: datetime) -> None:
    """Make the rows fit. Call after a report, news of faults, a listing, a rental, and when GPUs are given back."""
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
    spare: Counter[_Slice] = Counter()
    surplus = []
    # Others may be looking at those that were on offer all the time: of too many, the ones just given back go.
    for row in sorted(rows, key=lambda row: row.id in released):
        if row.contract_id is None:
            slice_ = _slice(machine, row)
            spare[slice_] += 1
            if spare[slice_] > wanted.get(slice_, 0):
                surplus.append(row.id)
    if surplus:
        ended = {slice_ for slice_ in spare if slice_ not in wanted} if machine.listing else set()
        for model, size in sorted(ended):
            log.warning("machine %d: offers of %d GPUs end: no such part of %s is left", machine.id, size, model)
        await tx.execute(sa.delete(ask_models).where(ask_models.c.ask_id.in_(surplus)))
        await tx.execute(sa.delete(asks).where(asks.c.id.in_(surplus)))
    missing = [slice_ for slice_, count in sorted(wanted.items()) for _ in range(count - spare[slice_])]
    for model, size in missing:
        values = {"machine_id": machine_id, "num_gpus": size, "created_at": now.timestamp()}
        made = (await tx.execute(sa.insert(asks).values(values).returning(asks.c.id))).scalar_one()
        await tx.execute(sa.insert(ask_models).values(ask_id=made, model=model))


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
    return machine.listing is not None and record.rentable and why_shut(machine, now, settings) is None


def why_shut(machine: MachineRecord, now: datetime, settings: Settings) -> str | None:
    """The code of what keeps all of a listed machine from being rented anew, whoever has it. None: nothing does."""
    if not liveness.is_online(machine, now, settings):
        return "machine_offline"
    end_at = None if machine.listing is None else offer.end_of_offer(machine.listing, now)
    if end_at is not None and now >= end_at:
        return "listing_ended"
    closed = why_closed(machine, end_at, now)
    return None if closed is None else closed.code


def why_closed(machine: MachineRecord, end_at: datetime | None, now: datetime) -> Problem | None:
    """Why no contract can be made now that would run until `end_at`.

    The owner drains the machine, or works on it soon, or it is not well. None: it can.
    """
    if fault := fitness.of_host(machine.faults):
        return Problem(
            "machine_unfit",
            f"cannot use machine {machine.id}: {fitness.words(fault)}",
            "Search again and rent another offer",
        )
    if machine.verified is not None and machine.verified.barred:
        return Problem(
            "machine_barred",
            f"cannot use machine {machine.id}: the operator of this marketplace has taken it off the market",
            "Search again and rent another offer",
        )
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
    used: Counter[_Slice] = Counter()
    records = []
    for row in rows:
        fits, slice_ = False, _slice(machine, row)
        if row.contract_id is None and machine.listing is not None:
            used[slice_] += 1
            fits = used[slice_] <= _fitting(slice_, left)
        created_at = from_epoch(row.created_at)
        records.append(AskRecord(row.id, row.machine_id, *slice_, row.contract_id, fits, created_at))
    return records


def _slice(machine: MachineRecord, row: sa.Row[Any]) -> _Slice:
    """A slice that was made before slices had models is of the one that the machine has."""
    models = machine.models
    presumed = _MANY if len(models) > 1 else next(iter(models), NO_MODEL)
    return presumed if row.model is None else str(row.model), int(row.num_gpus)


async def everything(tx: AsyncConnection, now: datetime) -> list[tuple[MachineRecord, Free, list[AskRecord]]]:
    """All machines that reported, what is free on them, and their slices: four queries whatever their number."""
    found = await machines.reported(tx)
    live: dict[int, list[_Live]] = defaultdict(list)
    for row in await tx.execute(_live_query()):
        live[row.machine_id].append(_one_live(row, now))
    rows: dict[int, list[sa.Row[Any]]] = defaultdict(list)
    for row in await tx.execute(_asks_query()):
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
    uuids = status.gpu_uuids if status is not None and has_gpus else ()
    return _Live(contract, rental, Holder(contract, rental.holds_gpus, wants_gpus, uuids))


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
    return list(await tx.execute(_asks_query().where(asks.c.machine_id == machine_id)))


def _asks_query() -> sa.Select[Any]:
    joined = asks.outerjoin(ask_models, ask_models.c.ask_id == asks.c.id)
    return sa.select(asks, ask_models.c.model).select_from(joined).order_by(asks.c.id)


async def _release(tx: AsyncConnection, machine_id: int, live: set[int]) -> set[int]:
    """A slice whose contract is gone is on offer again, under its old id. Returns those ids."""
    is_over = sa.and_(asks.c.machine_id == machine_id, asks.c.contract_id.is_not(None), asks.c.contract_id.not_in(live))
    released = await tx.scalars(sa.update(asks).where(is_over).values(contract_id=None).returning(asks.c.id))
    return set(released)


def _free(machine: MachineRecord, live: Collection[_Live], volume_bytes: int) -> Free:
    held = [one.rental for one in live if one.rental.holds_gpus and one.contract.kind not in OWN_KINDS]
    disk = machine.report.disk if machine.report else None
    promised = volume_bytes + sum(one.rental.disk_bytes for one in live)
    gpus = machine.report.gpus if machine.report else ()
    return Free(
        groups=vacancies(gpus, fitness.of_gpus(machine.faults), [one.holder for one in live]),
        disk_bytes=max(0, _unpromised(disk, promised)) if disk else 0,
        idle=not held,
    )


def _unpromised(disk: Disk, promised: int) -> int:
    """What can still be promised: neither filled by others than renters, nor promised to one who has not filled it."""
    if disk.others_bytes is None:
        return min(disk.free_bytes, disk.total_bytes - promised)
    return disk.total_bytes - disk.others_bytes - promised


def _can_count(machine: MachineRecord, rows: list[sa.Row[Any]]) -> bool:
    return machine.gpus_known and not (machine.num_gpus == 0 and any(row.num_gpus > 0 for row in rows))


def _wanted(machine: MachineRecord, left: Free, rows: list[sa.Row[Any]], firm: Collection[int]) -> dict[_Slice, int]:
    """How many unrented rows of each slice there should be: enough for the free GPUs, and no id lost meanwhile.

    Rows of contracts that are not `firm` count as if they were free: others may take their GPUs.
    """
    if machine.listing is None or machine.report is None:
        return {}
    rented = Counter(_slice(machine, row) for row in rows if row.contract_id in firm)
    wanted = {}
    for model, group in left.groups.items():
        for size in offer.sizes(group.total, machine.listing.min_gpu, group.fit):
            slice_ = (model, size)
            whole = offer.slice_count(size, group.total)
            wanted[slice_] = max(_fitting(slice_, left), whole - rented[slice_])
    return wanted


def _fitting(slice_: _Slice, left: Free) -> int:
    model, size = slice_
    if size == 0:
        return 1 if left.idle else 0
    group = left.groups.get(model)
    return 0 if group is None else offer.slice_count(size, group.free)
