"""Rows <-> Tally: the sums of each contract's traffic. Written by the reconciler only."""

from kaalia.contracts.traffic import Tally
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_TALLY = adapter(Tally)


def put(tx: Transaction, tally: Tally) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO traffic (contract_id, document) VALUES (?, ?)",
        (tally.counter.contract_id, _TALLY.dump_json(tally).decode()),
    )


def delete(tx: Transaction, contract_id: int) -> None:
    tx.execute("DELETE FROM traffic WHERE contract_id = ?", (contract_id,))


def all_tallies(tx: Transaction) -> dict[int, Tally]:
    """By contract."""
    rows = tx.execute("SELECT contract_id, document FROM traffic ORDER BY contract_id").fetchall()
    return {row["contract_id"]: _TALLY.validate_json(row["document"]) for row in rows}
