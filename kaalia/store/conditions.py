"""What is wrong with the machine now. Each source owns its rows: what it no longer finds is gone."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import TypeAdapter

from kaalia.clock import from_epoch
from kaalia.model.health import Condition, OpenCondition
from kaalia.store.database import Transaction

_CONDITION = TypeAdapter(Condition)


def replace(tx: Transaction, source: str, found: Iterable[Condition], now: datetime) -> None:
    """All that `source` finds wrong now. What it found before keeps its `since`, the rest of its rows go."""
    since = {(one.condition.problem.code, one.condition.scope): one.since for one in _rows(tx, source)}
    tx.execute("DELETE FROM conditions WHERE source = ?", (source,))
    for condition in found:
        key = (condition.problem.code, condition.scope)
        row = (source, *key, _CONDITION.dump_json(condition).decode(), since.get(key, now).timestamp())
        tx.execute("INSERT INTO conditions (source, code, scope, document, since) VALUES (?, ?, ?, ?, ?)", row)


def all_open(tx: Transaction) -> tuple[OpenCondition, ...]:
    """The oldest first."""
    return _rows(tx)


def _rows(tx: Transaction, source: str | None = None) -> tuple[OpenCondition, ...]:
    query = "SELECT source, document, since FROM conditions WHERE ? IS NULL OR source = ? ORDER BY since, code, scope"
    return tuple(
        OpenCondition(_CONDITION.validate_json(row["document"]), row["source"], from_epoch(row["since"]))
        for row in tx.execute(query, (source, source)).fetchall()
    )
