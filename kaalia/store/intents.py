"""What is about to be done to Docker, written before it is done (I3). Open rows after a crash: look, then complete."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from kaalia.clock import from_epoch
from kaalia.store.database import Transaction

KEPT = timedelta(days=7)
"""How long a closed intent stays as history."""
PRUNED_AT_ONCE = 20
"""More than one opens at a time, so that a backlog melts; few, so that no launch waits for it."""


@dataclass(frozen=True, slots=True)
class Intent:
    intent_id: int
    kind: str
    contract_id: int
    generation: int
    opened_at: datetime
    restart_count: int | None = None
    """Of an intent to start: the reboots asked by then, which this start carries out. None: it starts nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """An intent as history: `closed_at` None means it is still being done."""

    kind: str
    generation: int
    opened_at: datetime
    closed_at: datetime | None
    outcome: str


def open_intent(
    tx: Transaction, kind: str, contract_id: int, generation: int, now: datetime, restart_count: int | None = None
) -> int:
    """Old history makes room for it: the table does not grow with the years."""
    _prune(tx, now - KEPT)
    cursor = tx.execute(
        "INSERT INTO intents (kind, contract_id, generation, opened_at, restart_count) VALUES (?, ?, ?, ?, ?)",
        (kind, contract_id, generation, now.timestamp(), restart_count),
    )
    return int(cursor.lastrowid or 0)


def close_all(tx: Transaction, contract_id: int, outcome: str, now: datetime) -> None:
    """After a crash: reality was looked at, the level-triggered loop carries on from there."""
    tx.execute(
        "UPDATE intents SET closed_at = ?, outcome = ? WHERE contract_id = ? AND closed_at IS NULL",
        (now.timestamp(), outcome, contract_id),
    )


def open_intents(tx: Transaction) -> tuple[Intent, ...]:
    rows = tx.execute("SELECT * FROM intents WHERE closed_at IS NULL ORDER BY intent_id").fetchall()
    return tuple(
        Intent(
            intent_id=row["intent_id"],
            kind=row["kind"],
            contract_id=row["contract_id"],
            generation=row["generation"],
            opened_at=from_epoch(row["opened_at"]),
            restart_count=row["restart_count"],
        )
        for row in rows
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


def _prune(tx: Transaction, before: datetime) -> None:
    tx.execute(
        """DELETE FROM intents WHERE intent_id IN
             (SELECT intent_id FROM intents WHERE closed_at < ? ORDER BY closed_at LIMIT ?)""",
        (before.timestamp(), PRUNED_AT_ONCE),
    )
