"""The newest count of who has which bytes of the disk, who has too many, and what the owner asked to be done."""

from collections.abc import Iterable
from datetime import datetime

from kaalia.contracts.disk import Overrun
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter
from kaalia.wire.local import DiskLedger, DiskOrder

_LEDGER = adapter(DiskLedger)
_OVERRUN = adapter(Overrun)


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


def put_overruns(tx: Transaction, found: Iterable[Overrun]) -> None:
    """All that are over their size now."""
    tx.execute("DELETE FROM overruns")
    rows = [(one.contract_id, _OVERRUN.dump_json(one).decode()) for one in found]
    tx.executemany("INSERT INTO overruns (contract_id, document) VALUES (?, ?)", rows)


def overruns(tx: Transaction) -> dict[int, Overrun]:
    rows = tx.execute("SELECT contract_id, document FROM overruns").fetchall()
    return {row["contract_id"]: _OVERRUN.validate_json(row["document"]) for row in rows}
