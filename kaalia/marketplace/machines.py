"""Machines as the marketplace holds them: rows to records, the owner's terms, the revision that daemons wait for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import cordon, reliability
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.fitness import Fault
from kaalia.contracts.maintenance import Window
from kaalia.contracts.offer import Listing
from kaalia.contracts.slicing import all_known, by_model
from kaalia.marketplace.db.availability_tables import availability
from kaalia.marketplace.db.fitness_tables import machine_faults
from kaalia.marketplace.db.tables import closures, deleted_machines, machines
from kaalia.marketplace.db.verification_tables import verifications
from kaalia.model.availability import Record
from kaalia.model.machine import Gpu, MachineReport
from kaalia.model.verification import Verification

_REPORT = TypeAdapter(MachineReport)
_LISTING = TypeAdapter(Listing)
_WINDOWS = TypeAdapter(tuple[Window, ...])
_CORDON = TypeAdapter(Cordon)
_FAULTS = TypeAdapter(tuple[Fault, ...])
_RECORD = TypeAdapter(Record)
_VERIFICATION = TypeAdapter(Verification)


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """One row of `machines`, decoded. `report` None: never reported; `listing` None: not listed."""

    id: int
    user_id: int
    public_key: str
    fingerprint: str
    enrolled_at: datetime
    revision: int
    report: MachineReport | None
    listing: Listing | None
    last_seen_at: datetime | None
    stream_id: str | None
    acked_seq: int
    applied_revision: int
    verification: str
    deleted_at: datetime | None = None
    windows: tuple[Window, ...] = ()
    """Maintenance as it was scheduled, past windows too."""
    cordon: Cordon | None = None
    faults: tuple[Fault, ...] = ()
    """What keeps parts of it from being rented anew, as its daemon tells it."""
    availability: Record | None = None
    """None: never heard of."""
    verified: Verification | None = None
    """How it came to its `verification`. None: nothing was heard of it since there are such records."""

    def is_cordoned(self, now: datetime) -> bool:
        return cordon.is_up(self.cordon, now)

    @property
    def num_gpus(self) -> int:
        return len(self.report.gpus) if self.report else 0

    @property
    def models(self) -> dict[str, tuple[Gpu, ...]]:
        """Its GPUs by model: what one contract gets is of one."""
        return by_model(self.report.gpus) if self.report else {}

    @property
    def gpus_known(self) -> bool:
        """False: not all can be read, so that fewer are reported than are there."""
        return self.report is not None and all_known(self.report)


async def get(tx: AsyncConnection, machine_id: int) -> MachineRecord | None:
    """Any machine, a deleted one too: it still has to prove that its contracts are gone."""
    row = (await tx.execute(_query().where(machines.c.id == machine_id))).one_or_none()
    return None if row is None else _from_row(row)


async def lock(tx: AsyncConnection, machine_id: int) -> None:
    """Changes to one machine come one after the other, also by several processes on one database."""
    await tx.execute(sa.select(machines.c.id).where(machines.c.id == machine_id).with_for_update())


async def of_user(tx: AsyncConnection, user_id: int) -> list[MachineRecord]:
    """The machines of one owner, oldest first."""
    alive = sa.and_(machines.c.user_id == user_id, deleted_machines.c.deleted_at.is_(None))
    rows = await tx.execute(_query().where(alive).order_by(machines.c.id))
    return [_from_row(row) for row in rows]


async def reported(tx: AsyncConnection) -> dict[int, MachineRecord]:
    """Every machine that has said what it is and was not deleted, by id."""
    alive = sa.and_(machines.c.report.is_not(None), deleted_machines.c.deleted_at.is_(None))
    rows = await tx.execute(_query().where(alive))
    return {row.id: _from_row(row) for row in rows}


async def bump(tx: AsyncConnection, machine_id: int) -> None:
    """The daemon must see a change: revision + 1. Ring `machine_bells` after the commit."""
    await tx.execute(sa.update(machines).where(machines.c.id == machine_id).values(revision=machines.c.revision + 1))


async def put_report(tx: AsyncConnection, machine_id: int, report: MachineReport) -> None:
    """Keep the newest report. Call `listings.refresh_asks` after it: the number of GPUs may have changed."""
    document = _REPORT.dump_json(report).decode()
    await tx.execute(sa.update(machines).where(machines.c.id == machine_id).values(report=document))


async def put_listing(tx: AsyncConnection, machine_id: int, listing: Listing | None) -> None:
    """Set or end (None) the owner's terms and tell the daemon. Call `listings.refresh_asks` after it."""
    document = None if listing is None else _LISTING.dump_json(listing).decode()
    await tx.execute(sa.update(machines).where(machines.c.id == machine_id).values(listing=document))
    await bump(tx, machine_id)


async def put_windows(tx: AsyncConnection, machine_id: int, windows: tuple[Window, ...]) -> None:
    """All that are scheduled. Tell the daemon with `bump`; lock the machine's row before reading the old ones."""
    await _put_closures(tx, machine_id, {"windows": _WINDOWS.dump_json(windows).decode()})


async def put_cordon(tx: AsyncConnection, machine_id: int, placed: Cordon | None) -> None:
    """As the daemon tells it."""
    await _put_closures(tx, machine_id, {"cordon": None if placed is None else _CORDON.dump_json(placed).decode()})


async def put_faults(tx: AsyncConnection, machine_id: int, faults: tuple[Fault, ...]) -> None:
    """As the daemon tells it. Call `listings.refresh_asks` after it."""
    document = _FAULTS.dump_json(faults).decode()
    changed = await tx.execute(
        sa.update(machine_faults).where(machine_faults.c.machine_id == machine_id).values(faults=document)
    )
    if changed.rowcount == 0:
        await tx.execute(sa.insert(machine_faults).values(machine_id=machine_id, faults=document))


async def put_availability(tx: AsyncConnection, machine_id: int, record: Record) -> None:
    values = {"record": _RECORD.dump_json(record).decode()}
    changed = await tx.execute(sa.update(availability).where(availability.c.machine_id == machine_id).values(values))
    if changed.rowcount == 0:
        await tx.execute(sa.insert(availability).values({**values, "machine_id": machine_id}))


async def put_verification(tx: AsyncConnection, machine_id: int, record: Verification) -> None:
    """Tell the daemon with `bump`."""
    values = {"record": _VERIFICATION.dump_json(record).decode()}
    changed = await tx.execute(sa.update(verifications).where(verifications.c.machine_id == machine_id).values(values))
    if changed.rowcount == 0:
        await tx.execute(sa.insert(verifications).values({**values, "machine_id": machine_id}))
    state = {"verification": str(record.state)}
    await tx.execute(sa.update(machines).where(machines.c.id == machine_id).values(state))


async def _put_closures(tx: AsyncConnection, machine_id: int, values: dict[str, str | None]) -> None:
    changed = await tx.execute(sa.update(closures).where(closures.c.machine_id == machine_id).values(values))
    if changed.rowcount == 0:
        await tx.execute(sa.insert(closures).values({"windows": "[]", **values, "machine_id": machine_id}))


def _query() -> sa.Select[Any]:
    joined = machines.outerjoin(deleted_machines, deleted_machines.c.machine_id == machines.c.id)
    joined = joined.outerjoin(closures, closures.c.machine_id == machines.c.id)
    joined = joined.outerjoin(machine_faults, machine_faults.c.machine_id == machines.c.id)
    joined = joined.outerjoin(availability, availability.c.machine_id == machines.c.id)
    joined = joined.outerjoin(verifications, verifications.c.machine_id == machines.c.id)
    told = (machine_faults.c.faults, availability.c.record, verifications.c.record.label("verified"))
    columns = (deleted_machines.c.deleted_at, closures.c.windows, closures.c.cordon, *told)
    return sa.select(machines, *columns).select_from(joined)


@lru_cache(maxsize=4096)
def _report(document: str) -> MachineReport:
    # A search decodes every machine's report; most have not changed since the last search.
    return _REPORT.validate_json(document)


@lru_cache(maxsize=4096)
def _record(document: str) -> Record:
    return _RECORD.validate_json(document)


@lru_cache(maxsize=4096)
def _verified(document: str) -> Verification:
    return _VERIFICATION.validate_json(document)


def _availability(row: sa.Row[Any]) -> Record | None:
    """As it is written; of a machine that was last heard of before there were records, by its sums."""
    if row.record is not None:
        return _record(row.record)
    if row.last_seen_at is None:
        return None
    watched_from = from_epoch(row.last_seen_at - row.observed_s)
    return reliability.begun(watched_from, timedelta(seconds=row.observed_s - row.online_s))


def _from_row(row: sa.Row[Any]) -> MachineRecord:
    return MachineRecord(
        id=row.id,
        user_id=row.user_id,
        public_key=row.public_key,
        fingerprint=row.fingerprint,
        enrolled_at=from_epoch(row.enrolled_at),
        revision=row.revision,
        report=None if row.report is None else _report(row.report),
        listing=None if row.listing is None else _LISTING.validate_json(row.listing),
        last_seen_at=None if row.last_seen_at is None else from_epoch(row.last_seen_at),
        stream_id=row.stream_id,
        acked_seq=row.acked_seq,
        applied_revision=row.applied_revision,
        verification=row.verification,
        deleted_at=None if row.deleted_at is None else from_epoch(row.deleted_at),
        windows=() if row.windows is None else _WINDOWS.validate_json(row.windows),
        cordon=None if row.cordon is None else _CORDON.validate_json(row.cordon),
        faults=() if row.faults is None else _FAULTS.validate_json(row.faults),
        availability=_availability(row),
        verified=None if row.verified is None else _verified(row.verified),
    )
