"""Row <-> Anchor: what this machine knew of time when it last looked."""

from kaalia.clock import from_epoch
from kaalia.contracts.lease import Anchor
from kaalia.store.database import Transaction


def put(tx: Transaction, anchor: Anchor) -> None:
    tx.execute(
        """INSERT OR REPLACE INTO anchor (only_row, at, boottime_s, boot_id, seen_s, doubted_since_s)
           VALUES (1, ?, ?, ?, ?, ?)""",
        (anchor.at.timestamp(), anchor.boottime_s, anchor.boot_id, anchor.seen_s, anchor.doubted_since_s),
    )


def get(tx: Transaction) -> Anchor | None:
    row = tx.execute("SELECT * FROM anchor").fetchone()
    if row is None:
        return None
    return Anchor(from_epoch(row["at"]), row["boottime_s"], row["boot_id"], row["seen_s"], row["doubted_since_s"])
