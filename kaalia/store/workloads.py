"""Rows <-> WorkloadStatus: the last thing known of each contract's workload. Written by the reconciler only."""

from kaalia.model.workload import WorkloadStatus
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_STATUS = adapter(WorkloadStatus)


def put(tx: Transaction, status: WorkloadStatus) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO workloads (contract_id, document, updated_at) VALUES (?, ?, ?)",
        (status.contract_id, _STATUS.dump_json(status).decode(), status.as_of.timestamp()),
    )


def delete(tx: Transaction, contract_id: int) -> None:
    tx.execute("DELETE FROM workloads WHERE contract_id = ?", (contract_id,))


def get(tx: Transaction, contract_id: int) -> WorkloadStatus | None:
    row = tx.execute("SELECT document FROM workloads WHERE contract_id = ?", (contract_id,)).fetchone()
    return _STATUS.validate_json(row["document"]) if row else None


def all_workloads(tx: Transaction) -> dict[int, WorkloadStatus]:
    rows = tx.execute("SELECT contract_id, document FROM workloads").fetchall()
    return {row["contract_id"]: _STATUS.validate_json(row["document"]) for row in rows}
