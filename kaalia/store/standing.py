"""How the marketplace sees this machine, and when it was heard of last."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.model.standing import OFFLINE_AFTER, Gap, Standing
from kaalia.store.database import Transaction
from kaalia.wire import document


@dataclass(frozen=True, slots=True)
class StoredStanding:
    """`previous`: the verification before this one, None: there was none. `changed_at`: when it changed."""

    standing: Standing
    previous: str | None
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Heard:
    at: datetime
    gap: Gap | None


def put(tx: Transaction, standing: Standing, now: datetime) -> None:
    """The newest word of the marketplace."""
    known = get(tx)
    if known is not None and known.standing == standing:
        return
    previous, changed_at = (None, now) if known is None else (known.previous, known.changed_at)
    if known is not None and known.standing.verification != standing.verification:
        previous, changed_at = known.standing.verification, now
    tx.execute(
        "INSERT OR REPLACE INTO standing (only_row, document, previous, changed_at) VALUES (1, ?, ?, ?)",
        (document.encode(standing), previous, changed_at.timestamp()),
    )


def get(tx: Transaction) -> StoredStanding | None:
    row = tx.execute("SELECT document, previous, changed_at FROM standing").fetchone()
    if row is None:
        return None
    return StoredStanding(document.decode(Standing, row["document"]), row["previous"], from_epoch(row["changed_at"]))


def verification(tx: Transaction) -> str:
    """The state alone, as the marketplace said it last; "" when it never did."""
    row = tx.execute("SELECT json_extract(document, '$.verification') AS state FROM standing").fetchone()
    return "" if row is None else str(row["state"])


def hear(tx: Transaction, now: datetime) -> None:
    """The marketplace answered. A clock that was set back makes no gap."""
    known = heard(tx)
    gap = known.gap if known else None
    if known is not None and now - known.at >= OFFLINE_AFTER:
        gap = Gap(known.at, now)
    since, until = (None, None) if gap is None else (gap.since.timestamp(), gap.until.timestamp())
    tx.execute(
        "INSERT OR REPLACE INTO heard (only_row, at, gap_since, gap_until) VALUES (1, ?, ?, ?)",
        (now.timestamp(), since, until),
    )


def heard(tx: Transaction) -> Heard | None:
    row = tx.execute("SELECT at, gap_since, gap_until FROM heard").fetchone()
    if row is None:
        return None
    gap = None if row["gap_since"] is None else Gap(from_epoch(row["gap_since"]), from_epoch(row["gap_until"]))
    return Heard(from_epoch(row["at"]), gap)
