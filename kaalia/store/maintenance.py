"""When the machine is closed to new contracts: announced windows (written by `sync`) and the owner's cordon."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.store.database import Transaction


@dataclass(frozen=True, slots=True)
class StoredCordon:
    """`is_obeyed`: whatever was begun before it stands in the books, and nothing new is begun."""

    cordon: Cordon
    is_obeyed: bool


def put_windows(tx: Transaction, windows: Iterable[Window]) -> None:
    """All there are."""
    tx.execute("DELETE FROM maintenance")
    for one in windows:
        row = (one.start_at.timestamp(), one.end_at.timestamp(), one.scheduled_at.timestamp(), one.category)
        tx.execute(
            "INSERT OR REPLACE INTO maintenance (start_at, end_at, scheduled_at, category) VALUES (?, ?, ?, ?)", row
        )


def windows(tx: Transaction) -> tuple[Window, ...]:
    """The earliest first; past ones too."""
    rows = tx.execute("SELECT start_at, end_at, scheduled_at, category FROM maintenance ORDER BY start_at").fetchall()
    return tuple(
        Window(from_epoch(row["start_at"]), from_epoch(row["end_at"]), from_epoch(row["scheduled_at"]), row["category"])
        for row in rows
    )


def put_cordon(tx: Transaction, cordon: Cordon) -> None:
    """A new one: it must be taken in before it is in force."""
    until_at = None if cordon.until_at is None else cordon.until_at.timestamp()
    tx.execute(
        "INSERT OR REPLACE INTO cordon (only_row, placed_at, until_at) VALUES (1, ?, ?)",
        (cordon.placed_at.timestamp(), until_at),
    )


def set_until(tx: Transaction, until_at: datetime | None) -> None:
    """The same cordon with another date."""
    tx.execute("UPDATE cordon SET until_at = ?", (None if until_at is None else until_at.timestamp(),))


def lift_cordon(tx: Transaction) -> None:
    tx.execute("DELETE FROM cordon")


def obey_cordon(tx: Transaction, cordon: Cordon, now: datetime) -> None:
    """Only this one: another may have taken its place meanwhile."""
    placed_at = cordon.placed_at.timestamp()
    tx.execute(
        "UPDATE cordon SET obeyed_at = ? WHERE placed_at = ? AND obeyed_at IS NULL", (now.timestamp(), placed_at)
    )


def get_cordon(tx: Transaction) -> StoredCordon | None:
    """As it was placed, lifted by its own date or not: see `contracts.cordon.is_up`."""
    row = tx.execute("SELECT placed_at, until_at, obeyed_at FROM cordon").fetchone()
    if row is None:
        return None
    until_at = None if row["until_at"] is None else from_epoch(row["until_at"])
    return StoredCordon(Cordon(from_epoch(row["placed_at"]), until_at), row["obeyed_at"] is not None)
