"""Copies that are under way, so that a restart can tell the renter of those that it cut off."""

from kaalia.model.copying import CopyOrder
from kaalia.store.database import Transaction
from kaalia.wire import document


def put(tx: Transaction, order: CopyOrder) -> None:
    row = (order.copy_id, document.encode(order))
    tx.execute("INSERT OR REPLACE INTO copies (copy_id, document) VALUES (?, ?)", row)


def forget(tx: Transaction, copy_id: str) -> None:
    tx.execute("DELETE FROM copies WHERE copy_id = ?", (copy_id,))


def under_way(tx: Transaction) -> tuple[CopyOrder, ...]:
    rows = tx.execute("SELECT document FROM copies ORDER BY copy_id").fetchall()
    return tuple(document.decode(CopyOrder, row["document"]) for row in rows)
