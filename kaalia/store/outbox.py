"""What the marketplace must still be told, in order. At least once: a row goes when its number is acknowledged."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Message:
    """`body` is the JSON text of a wire document; `kind` says which."""

    seq: int
    kind: str
    body: str


def add(tx: Transaction, kind: str, body: str, now: datetime) -> None:
    tx.execute("INSERT INTO outbox (kind, body, created_at) VALUES (?, ?, ?)", (kind, body, now.timestamp()))


def pending(tx: Transaction, limit: int) -> tuple[Message, ...]:
    rows = tx.execute("SELECT seq, kind, body FROM outbox ORDER BY seq LIMIT ?", (limit,)).fetchall()
    return tuple(Message(row["seq"], row["kind"], row["body"]) for row in rows)


def count(tx: Transaction) -> int:
    return int(tx.execute("SELECT COUNT(*) FROM outbox").fetchone()[0])


def oldest_at(tx: Transaction) -> datetime | None:
    """None: everything was acknowledged."""
    row = tx.execute("SELECT created_at FROM outbox ORDER BY seq LIMIT 1").fetchone()
    return None if row is None else from_epoch(row["created_at"])


def acknowledge(tx: Transaction, up_to_seq: int) -> None:
    tx.execute("DELETE FROM outbox WHERE seq <= ?", (up_to_seq,))


def replace(tx: Transaction, kind: str, body: str, now: datetime) -> None:
    """Add a message that outdates earlier unsent ones of its kind: of a machine's reports only the last counts."""
    tx.execute("DELETE FROM outbox WHERE kind = ?", (kind,))
    add(tx, kind, body, now)
