"""Rows <-> Volume and VolumeStatus. What is agreed is written by `sync`, how it is doing by the reconciler only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaalia.contracts.volume import Volume
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.store import amounts, machine, outbox
from kaalia.store.amounts import Amount, AmountKind, OwnerKind
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_VOLUME = adapter(Volume)
_STATUS = adapter(VolumeStatus)
_MESSAGE = "volume"
"""`wire.protocol.MessageKind.VOLUME`."""


@dataclass(frozen=True, slots=True)
class StoredVolume:
    """`place`: the folder in which it was made; None: it has not been."""

    volume: Volume
    status: VolumeStatus | None = None
    place: str | None = None


def upsert(tx: Transaction, volume: Volume) -> None:
    tx.execute(
        """INSERT INTO volumes (volume_id, document) VALUES (?, ?)
           ON CONFLICT (volume_id) DO UPDATE SET document = excluded.document""",
        (volume.volume_id, _VOLUME.dump_json(volume).decode()),
    )


def put_status(tx: Transaction, status: VolumeStatus, now: datetime, place: str | None = None) -> None:
    """The newest status, its bytes in the ledger, and the message that tells it. `place` None: as it was.

    Raises StoreError `claim_exceeds` for one that is to be made and does not fit.
    """
    text = _STATUS.dump_json(status).decode()
    tx.execute(
        "UPDATE volumes SET status = ?, place = COALESCE(?, place) WHERE volume_id = ?",
        (text, place, status.volume_id),
    )
    _account(tx, status, now)
    outbox.add(tx, _MESSAGE, text, now)


def delete(tx: Transaction, volume_id: int) -> None:
    tx.execute("DELETE FROM volumes WHERE volume_id = ?", (volume_id,))
    amounts.release(tx, OwnerKind.VOLUME, volume_id)


def get(tx: Transaction, volume_id: int) -> StoredVolume | None:
    row = tx.execute("SELECT * FROM volumes WHERE volume_id = ?", (volume_id,)).fetchone()
    return None if row is None else _stored(row)


def all_volumes(tx: Transaction) -> tuple[StoredVolume, ...]:
    return tuple(_stored(row) for row in tx.execute("SELECT * FROM volumes ORDER BY volume_id").fetchall())


def all_statuses(tx: Transaction) -> tuple[VolumeStatus, ...]:
    return tuple(stored.status for stored in all_volumes(tx) if stored.status is not None)


def held_bytes(tx: Transaction) -> int:
    """Disk that volumes were given here, until they are proven gone."""
    gone = (None, VolumeState.ENDED, VolumeState.FAILED)
    return sum(
        stored.volume.size_bytes
        for stored in all_volumes(tx)
        if (stored.status.state if stored.status else None) not in gone
    )


def _account(tx: Transaction, status: VolumeStatus, now: datetime) -> None:
    """A volume has its bytes from the intent to make it until it is proven gone. What exists is not refused."""
    if status.state in (VolumeState.FAILED, VolumeState.ENDED):
        amounts.release(tx, OwnerKind.VOLUME, status.volume_id)
    elif status.state is not VolumeState.REMOVING and (stored := get(tx, status.volume_id)):
        size = Amount(AmountKind.DISK, OwnerKind.VOLUME, status.volume_id, 1, stored.volume.size_bytes)
        report = machine.get_report(tx) if status.state is VolumeState.CREATING else None
        limits = {AmountKind.DISK: report.disk.total_bytes} if report and report.disk else {}
        amounts.claim(tx, [size], now, limits)


def _stored(row: Any) -> StoredVolume:
    status = None if row["status"] is None else _STATUS.validate_json(row["status"])
    return StoredVolume(_VOLUME.validate_json(row["document"]), status, row["place"])
