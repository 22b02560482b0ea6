"""What is about to be done to Docker, written before it is done (I3). Open rows after a crash: look, then complete."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Intent:
    intent_id: int
    kind: str
    contract_id: int
    generation: int
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """An intent as history: `closed_at` None means it is still being done."""

    kind: str
    generation: int
    opened_at: datetime
    closed_at: datetime | None
    outcome: str


def open_intent(tx: Transaction, kind: str, contract_id: int, generation: int, now: datetime) -> int:
    cursor = tx.execute(
        "INSERT INTO intents (kind, contract_id, generation, opened_at) VALUES (?, ?, ?, ?)",
        (kind, contract_id, generation, now.timestamp()),
    )
    return int(cursor.lastrowid or 0)


def close_intent(tx: Transaction, intent_id: int, outcome: str, now: datetime) -> None:
    tx.execute(
        "UPDATE intents SET closed_at = ?, outcome = ? WHERE intent_id = ? AND closed_at IS NULL",
        (now.timestamp(), outcome, intent_id),
    )


def close_all(tx: Transaction, contract_id: int, outcome: str, now: datetime) -> None:
    """After a crash: reality was looked at, the level-triggered loop carries on from there."""
    tx.execute(
        "UPDATE intents SET closed_at = ?, outcome = ? WHERE contract_id = ? AND closed_at IS NULL",
        (now.timestamp(), outcome, contract_id),
    )


def open_intents(tx: Transaction) -> tuple[Intent, ...]:
    rows = tx.execute("SELECT * FROM intents WHERE closed_at IS NULL ORDER BY intent_id").fetchall()
    return tuple(
        Intent(r["intent_id"], r["kind"], r["contract_id"], r["generation"], from_epoch(r["opened_at"])) for r in rows
    )


def history(tx: Transaction, contract_id: int, limit: int) -> tuple[Step, ...]:
    """The newest `limit` intents of a contract, oldest first."""
    rows = tx.execute(
        "SELECT * FROM intents WHERE contract_id = ? ORDER BY intent_id DESC LIMIT ?", (contract_id, limit)
    ).fetchall()
    return tuple(
        Step(
            kind=row["kind"],
            generation=row["generation"],
            opened_at=from_epoch(row["opened_at"]),
            closed_at=None if row["closed_at"] is None else from_epoch(row["closed_at"]),
            outcome=row["outcome"] or "",
        )
        for row in reversed(rows)
    )
