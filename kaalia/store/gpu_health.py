"""The newest reading of how the GPUs are, by `capability`, and which were ever there, by `health`. Never sent."""

from collections.abc import Iterable

from kaalia.model.gpu_health import GpuReading, KnownGpu
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_READING = adapter(GpuReading)
_KNOWN = adapter(KnownGpu)


def put(tx: Transaction, reading: GpuReading) -> None:
    row = (_READING.dump_json(reading).decode(),)
    tx.execute("INSERT OR REPLACE INTO gpu_reading (only_row, document) VALUES (1, ?)", row)


def get(tx: Transaction) -> GpuReading | None:
    row = tx.execute("SELECT document FROM gpu_reading").fetchone()
    return None if row is None else _READING.validate_json(row["document"])


def put_known(tx: Transaction, gpus: Iterable[KnownGpu]) -> None:
    """All of them: a GPU that is not among them was never there."""
    tx.execute("DELETE FROM known_gpus")
    for gpu in gpus:
        tx.execute("INSERT INTO known_gpus (uuid, document) VALUES (?, ?)", (gpu.uuid, _KNOWN.dump_json(gpu).decode()))


def known(tx: Transaction) -> tuple[KnownGpu, ...]:
    """By UUID."""
    rows = tx.execute("SELECT document FROM known_gpus ORDER BY uuid").fetchall()
    return tuple(_KNOWN.validate_json(row["document"]) for row in rows)
