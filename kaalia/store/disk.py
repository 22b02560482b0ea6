"""The newest count of who has which bytes of the disk, and what the owner asked to be done about it."""

from datetime import datetime

from pydantic import TypeAdapter

from kaalia.store.database import Transaction
from kaalia.wire.local import DiskLedger, DiskOrder

_LEDGER = TypeAdapter(DiskLedger)


def put_ledger(tx: Transaction, ledger: DiskLedger) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO disk_ledger (only_row, document) VALUES (1, ?)", (_LEDGER.dump_json(ledger).decode(),)
    )


def get_ledger(tx: Transaction) -> DiskLedger | None:
    row = tx.execute("SELECT document FROM disk_ledger").fetchone()
    return None if row is None else _LEDGER.validate_json(row["document"])


def order(tx: Transaction, kind: DiskOrder, now: datetime) -> None:
    """Ask for it once more; an order that is open already stays one."""
    tx.execute("INSERT OR REPLACE INTO disk_orders (kind, asked_at) VALUES (?, ?)", (kind, now.timestamp()))


def orders(tx: Transaction) -> frozenset[DiskOrder]:
    return frozenset(DiskOrder(row["kind"]) for row in tx.execute("SELECT kind FROM disk_orders").fetchall())


def close_order(tx: Transaction, kind: DiskOrder) -> None:
    tx.execute("DELETE FROM disk_orders WHERE kind = ?", (kind,))
