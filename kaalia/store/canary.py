"""What is known of the machine's own test container."""

from collections.abc import Callable

from kaalia.model.canary import CanaryState
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

SOURCE = "canary"
"""Of conditions, and the purpose of its contracts."""

_STATE = adapter(CanaryState)


def get(tx: Transaction) -> CanaryState:
    row = tx.execute("SELECT document FROM canary").fetchone()
    return CanaryState() if row is None else _STATE.validate_json(row["document"])


def change(tx: Transaction, how: Callable[[CanaryState], CanaryState]) -> CanaryState:
    """The state after it. Nothing is written when nothing changes."""
    before = get(tx)
    after = how(before)
    if after != before:
        text = _STATE.dump_json(after).decode()
        tx.execute("INSERT OR REPLACE INTO canary (only_row, document) VALUES (1, ?)", (text,))
    return after
