"""What the machine is made of, as it was last read: one JSON document. The daemon writes it and reads none of it."""

import dataclasses
import json
from datetime import datetime

from kaalia.model.inventory import Inventory
from kaalia.store.database import Transaction


def put(tx: Transaction, found: Inventory) -> None:
    # Not by pydantic: its schema of these many fields would stay in the idle daemon's memory.
    text = json.dumps(dataclasses.asdict(found), default=_moment, separators=(",", ":"))
    tx.execute("INSERT OR REPLACE INTO inventory (only_row, document) VALUES (1, ?)", (text,))


def get_json(tx: Transaction) -> str | None:
    """The document of an `Inventory`, for `wire.document.decode`. None: never read."""
    row = tx.execute("SELECT document FROM inventory").fetchone()
    return None if row is None else str(row["document"])


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot store {value!r}")
