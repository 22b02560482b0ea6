"""Copies that are under way, so that a restart can tell the renter of those that it cut off."""

from kaalia.model.copying import CloudOrder, CopyOrder
from kaalia.store.database import Transaction
from kaalia.wire import document

_CLOUD = "cloud-"
"""So begin the ids of rows that hold a CloudOrder."""


def put(tx: Transaction, order: CopyOrder | CloudOrder) -> None:
    row = (_row_id(order), document.encode(order))
    tx.execute("INSERT OR REPLACE INTO copies (copy_id, document) VALUES (?, ?)", row)


def forget(tx: Transaction, order: CopyOrder | CloudOrder) -> None:
    tx.execute("DELETE FROM copies WHERE copy_id = ?", (_row_id(order),))


def under_way(tx: Transaction) -> tuple[CopyOrder | CloudOrder, ...]:
    rows = tx.execute("SELECT copy_id, document FROM copies ORDER BY copy_id").fetchall()
    return tuple(_order(row["copy_id"], row["document"]) for row in rows)


def _order(row_id: str, text: str) -> CopyOrder | CloudOrder:
    return document.decode(CloudOrder, text) if row_id.startswith(_CLOUD) else document.decode(CopyOrder, text)


def _row_id(order: CopyOrder | CloudOrder) -> str:
    return f"{_CLOUD}{order.copy_id}" if isinstance(order, CloudOrder) else order.copy_id
