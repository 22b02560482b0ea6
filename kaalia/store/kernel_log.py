"""How far the kernel's log was read, and the faults that it told: in one transaction, so that none is counted twice."""

from collections.abc import Iterable

from kaalia.clock import from_epoch
from kaalia.model.kernel_log import KernelFault, KernelPosition
from kaalia.store.database import Transaction

KEPT_ROWS = 2000
"""Of all boots; a machine with eight GPUs that has each fault once a boot fills it in years."""


def position(tx: Transaction) -> KernelPosition | None:
    row = tx.execute("SELECT boot_id, number FROM kernel_position").fetchone()
    return None if row is None else KernelPosition(row["boot_id"], row["number"])


def record(tx: Transaction, reached: KernelPosition, seen: Iterable[KernelFault]) -> None:
    """The log was read up to `reached`, and told `seen` since the last time."""
    tx.execute(
        "INSERT OR REPLACE INTO kernel_position (only_row, boot_id, number) VALUES (1, ?, ?)",
        (reached.boot_id, reached.number),
    )
    for fault in seen:
        tx.execute(
            "INSERT INTO kernel_faults VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (boot_id, code, subject) DO UPDATE SET last_at = excluded.last_at, "
            "last_number = excluded.last_number, count = count + excluded.count, text = excluded.text",
            (
                reached.boot_id,
                fault.code,
                fault.subject,
                fault.first_at.timestamp(),
                fault.last_at.timestamp(),
                fault.last_number,
                fault.count,
                fault.text,
            ),
        )
    tx.execute(
        "DELETE FROM kernel_faults WHERE (boot_id, code, subject) NOT IN "
        "(SELECT boot_id, code, subject FROM kernel_faults ORDER BY last_at DESC LIMIT ?)",
        (KEPT_ROWS,),
    )


def faults(tx: Transaction, boot_id: str) -> tuple[KernelFault, ...]:
    """All of one boot, the oldest first."""
    query = "SELECT * FROM kernel_faults WHERE boot_id = ? ORDER BY first_at, code, subject"
    return tuple(
        KernelFault(
            row["code"],
            row["subject"],
            from_epoch(row["first_at"]),
            from_epoch(row["last_at"]),
            row["last_number"],
            row["count"],
            row["text"],
        )
        for row in tx.execute(query, (boot_id,)).fetchall()
    )
