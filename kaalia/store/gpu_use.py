"""The newest reading of which processes use the GPUs. Written by `capability`, read by the audit; never sent."""

from kaalia.model.gpu_use import GpuUse
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_USE = adapter(GpuUse)


def put(tx: Transaction, use: GpuUse) -> None:
    tx.execute("INSERT OR REPLACE INTO gpu_use (only_row, document) VALUES (1, ?)", (_USE.dump_json(use).decode(),))


def get(tx: Transaction) -> GpuUse | None:
    row = tx.execute("SELECT document FROM gpu_use").fetchone()
    return None if row is None else _USE.validate_json(row["document"])
