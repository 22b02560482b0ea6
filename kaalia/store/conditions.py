"""What is wrong with the machine now, and what was. Each source owns its rows: what it no longer finds is past.

A change rings `Topic.CONDITIONS` by itself, whoever writes it.
"""

from collections.abc import Iterable
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.model.health import Condition, OpenCondition, PastCondition, Severity
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

PAST_ROWS = 500
"""The newest are kept; one that comes and goes each minute fills them in a working day."""
_CONDITION = adapter(Condition)


def replace(tx: Transaction, source: str, found: Iterable[Condition], now: datetime) -> None:
    """All that `source` finds wrong now. What it found before keeps its `since`, the rest of its rows are past."""
    before = {(one.condition.problem.code, one.condition.scope): one for one in _rows(tx, source)}
    tx.execute("DELETE FROM conditions WHERE source = ?", (source,))
    weight_before, weight = {key: _weight(one.condition) for key, one in before.items()}, {}
    for condition in found:
        key = (condition.problem.code, condition.scope)
        weight[key] = _weight(condition)
        known = before.pop(key, None)
        row = (source, *key, _dump(condition), (known.since if known else now).timestamp())
        tx.execute("INSERT INTO conditions (source, code, scope, document, since) VALUES (?, ?, ?, ?, ?)", row)
    for over in before.values():
        _keep(tx, over, now)
    if weight != weight_before:
        tx.rings.add(Topic.CONDITIONS)


def _weight(condition: Condition) -> tuple[Severity, bool | None]:
    """What makes others act: evidence and words may change each minute."""
    return condition.severity, condition.blocks


def all_open(tx: Transaction) -> tuple[OpenCondition, ...]:
    """The oldest first."""
    return _rows(tx)


def past(tx: Transaction, limit: int) -> tuple[PastCondition, ...]:
    """Those that ended last, the newest first."""
    query = "SELECT source, document, since, until FROM past_conditions ORDER BY number DESC LIMIT ?"
    return tuple(
        PastCondition(
            _CONDITION.validate_json(row["document"]), row["source"], from_epoch(row["since"]), from_epoch(row["until"])
        )
        for row in tx.execute(query, (limit,)).fetchall()
    )


def ended(tx: Transaction) -> int:
    """How many are over, those included that are not kept any more."""
    return int(tx.execute("SELECT COALESCE(MAX(number), 0) FROM past_conditions").fetchone()[0])


def _keep(tx: Transaction, over: OpenCondition, now: datetime) -> None:
    row = (over.source, _dump(over.condition), over.since.timestamp(), now.timestamp())
    tx.execute("INSERT INTO past_conditions (source, document, since, until) VALUES (?, ?, ?, ?)", row)
    tx.execute(
        "DELETE FROM past_conditions WHERE number <= (SELECT max(number) FROM past_conditions) - ?", (PAST_ROWS,)
    )


def _rows(tx: Transaction, source: str | None = None) -> tuple[OpenCondition, ...]:
    query = "SELECT source, document, since FROM conditions WHERE ? IS NULL OR source = ? ORDER BY since, code, scope"
    return tuple(
        OpenCondition(_CONDITION.validate_json(row["document"]), row["source"], from_epoch(row["since"]))
        for row in tx.execute(query, (source, source)).fetchall()
    )


def _dump(condition: Condition) -> str:
    return _CONDITION.dump_json(condition).decode()
