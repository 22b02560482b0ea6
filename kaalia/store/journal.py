"""The journal of what was used, from when to when. Lines are added, never changed: the database refuses that."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaalia.clock import from_epoch
from kaalia.contracts.metering import Standing
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.store import outbox
from kaalia.store.database import Transaction
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind


@dataclass(frozen=True, slots=True)
class ProofOfLife:
    """When the daemon last saw what runs, and in which boot of the machine."""

    proven_at: datetime
    boot_id: str


def add(tx: Transaction, entries: Iterable[Entry], now: datetime) -> None:
    for entry in entries:
        entry_id = tx.execute(
            """INSERT INTO journal (contract_id, generation, meter, edge, at, amount, reason, written_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                entry.contract_id,
                entry.generation,
                entry.meter,
                entry.edge,
                entry.at.isoformat(),
                entry.amount,
                entry.reason,
                now.timestamp(),
            ),
        ).lastrowid
        if entry.edge is Edge.COUNT:
            continue
        if entry.edge is Edge.START:
            tx.execute(
                "INSERT OR REPLACE INTO meters (contract_id, meter, start_entry) VALUES (?, ?, ?)",
                (entry.contract_id, entry.meter, entry_id),
            )
        else:
            tx.execute(
                "UPDATE meters SET end_entry = ? WHERE contract_id = ? AND meter = ? AND end_entry IS NULL",
                (entry_id, entry.contract_id, entry.meter),
            )


def count(tx: Transaction, entries: Iterable[Entry], now: datetime) -> None:
    """As `add`, and the messages that tell the marketplace."""
    found = tuple(entries)
    add(tx, found, now)
    for entry in found:
        outbox.add(tx, MessageKind.METER, document.encode(entry), now)


def standing(tx: Transaction, contract_id: int, meter: Meter) -> Standing:
    row = tx.execute(
        "SELECT start_entry, end_entry FROM meters WHERE contract_id = ? AND meter = ?", (contract_id, meter)
    ).fetchone()
    if row is None:
        return Standing()
    return Standing(_entry(tx, row["start_entry"]), _entry(tx, row["end_entry"]))


def open_starts(tx: Transaction) -> tuple[Entry, ...]:
    """The START of every meter that runs."""
    rows = tx.execute(
        """SELECT journal.* FROM meters JOIN journal ON entry_id = start_entry
           WHERE end_entry IS NULL ORDER BY entry_id"""
    ).fetchall()
    return tuple(_from_row(row) for row in rows)


def all_entries(tx: Transaction, contract_id: int | None = None) -> tuple[Entry, ...]:
    """In the order in which they were written. Of one contract: none of the volume with the same number."""
    rows = tx.execute(
        """SELECT * FROM journal WHERE ?1 IS NULL OR (contract_id = ?1 AND meter <> 'volume')
           ORDER BY entry_id""",
        (contract_id,),
    ).fetchall()
    return tuple(_from_row(row) for row in rows)


def of_volume(tx: Transaction, volume_id: int) -> tuple[Entry, ...]:
    """In the order in which they were written."""
    query = "SELECT * FROM journal WHERE contract_id = ? AND meter = 'volume' ORDER BY entry_id"
    return tuple(_from_row(row) for row in tx.execute(query, (volume_id,)).fetchall())


def prove_life(tx: Transaction, now: datetime, boot_id: str) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO proof_of_life (only_row, proven_at, boot_id) VALUES (1, ?, ?)",
        (now.timestamp(), boot_id),
    )


def proof_of_life(tx: Transaction) -> ProofOfLife | None:
    row = tx.execute("SELECT proven_at, boot_id FROM proof_of_life").fetchone()
    return None if row is None else ProofOfLife(from_epoch(row["proven_at"]), row["boot_id"])


def _entry(tx: Transaction, entry_id: int | None) -> Entry | None:
    row = tx.execute("SELECT * FROM journal WHERE entry_id = ?", (entry_id,)).fetchone()
    return None if row is None else _from_row(row)


def _from_row(row: Any) -> Entry:
    return Entry(
        contract_id=row["contract_id"],
        generation=row["generation"],
        meter=Meter(row["meter"]),
        edge=Edge(row["edge"]),
        at=datetime.fromisoformat(row["at"]),
        amount=row["amount"],
        reason=row["reason"],
    )
