"""The public address that this machine has, and the one it had before: instances were told that."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.store.database import Transaction


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """`before` "": it never was another one. `since`: when this one was first seen."""

    address: str
    before: str
    since: datetime


def get(tx: Transaction) -> PublicAddress | None:
    row = tx.execute("SELECT * FROM public_address").fetchone()
    return None if row is None else PublicAddress(row["address"], row["before"], from_epoch(row["since"]))


def saw(tx: Transaction, address: str, now: datetime) -> None:
    """This is the machine's address now."""
    known = get(tx)
    if known is None or known.address != address:
        row = (address, known.address if known else "", now.timestamp())
        tx.execute("INSERT OR REPLACE INTO public_address (only_row, address, before, since) VALUES (1, ?, ?, ?)", row)
