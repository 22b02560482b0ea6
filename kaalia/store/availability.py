"""The machine's ledger of outages, and what the marketplace says of its reliability.

The ledger is written by `health`, the marketplace's words by `sync`. It is bounded: an outage that follows one of the
same cause at once is the same one, and the newest ROWS_MAX are kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaalia.clock import from_epoch
from kaalia.contracts.outages import Pending
from kaalia.model.availability import Cause, Outage, Record
from kaalia.store.database import Transaction
from kaalia.wire import document

ROWS_MAX = 500
SAME_WITHIN = timedelta(seconds=60)
"""What comes back so soon after its end had not ended."""


@dataclass(frozen=True, slots=True)
class StoredOutage:
    number: int
    version: int
    outage: Outage
    boot_id: str
    begin_s: float
    """The age of that boot when it began."""


@dataclass(frozen=True, slots=True)
class Contact:
    """`posts` grows with each one that was answered. `failure`: the code of the newest failure after that, if any.

    `was_reached`: somebody answered nevertheless, if only to refuse.
    """

    posts: int = 0
    heard_at: datetime | None = None
    reliability: float | None = None
    failure: str | None = None
    was_reached: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """The daemon was told to stop, in this boot and at this age of it."""

    boot_id: str
    at_s: float


def begin(tx: Transaction, outage: Outage, boot_id: str, begin_s: float) -> None:
    """A new row, or the last one of this cause goes on. With an end it is over already."""
    row = tx.execute("SELECT * FROM outages WHERE cause = ? ORDER BY number DESC LIMIT 1", (outage.cause,)).fetchone()
    is_same = row is not None and row["end_at"] is not None and _follows(row, outage)
    end_at = None if outage.end_at is None else outage.end_at.timestamp()
    if is_same:
        tx.execute(
            "UPDATE outages SET end_at = ?, is_rented = max(is_rented, ?), version = version + 1 WHERE number = ?",
            (end_at, outage.is_rented, row["number"]),
        )
        return
    values = (outage.cause, outage.begin_at.timestamp(), end_at, boot_id, begin_s, outage.is_rented, outage.detail)
    tx.execute(
        "INSERT INTO outages (cause, begin_at, end_at, boot_id, begin_s, is_rented, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        values,
    )
    tx.execute("DELETE FROM outages WHERE number <= (SELECT max(number) FROM outages) - ?", (ROWS_MAX,))


def end(tx: Transaction, number: int, begin_at: datetime, end_at: datetime) -> None:
    """It is over. Its beginning is given anew: within a boot the length is known better than the hour."""
    tx.execute(
        "UPDATE outages SET begin_at = ?, end_at = ?, version = version + 1 WHERE number = ?",
        (begin_at.timestamp(), max(begin_at, end_at).timestamp(), number),
    )


def open_outages(tx: Transaction) -> tuple[StoredOutage, ...]:
    return _rows(tx, "WHERE end_at IS NULL ORDER BY number")


def ledger(tx: Transaction) -> tuple[Outage, ...]:
    """The oldest first."""
    return tuple(one.outage for one in _rows(tx, "ORDER BY begin_at, number"))


def untold(tx: Transaction, limit: int) -> tuple[StoredOutage, ...]:
    return _rows(tx, f"WHERE version > told_version ORDER BY number LIMIT {int(limit)}")


@dataclass(frozen=True, slots=True)
class Sum:
    """The outages of one cause in a time. `is_open`: the newest goes on."""

    count: int
    seconds: float
    is_open: bool


def sums(tx: Transaction, since: datetime, now: datetime) -> dict[Cause, Sum]:
    """By cause, of the outages that were not over at `since`, with their time from then on."""
    begin_s, end_s = since.timestamp(), now.timestamp()
    rows = tx.execute(
        """SELECT cause, count(*) AS count, max(end_at IS NULL) AS is_open,
             sum(max(0, coalesce(end_at, :end) - max(begin_at, :begin))) AS seconds
           FROM outages WHERE coalesce(end_at, :end) > :begin GROUP BY cause""",
        {"begin": begin_s, "end": end_s},
    ).fetchall()
    return {Cause(row["cause"]): Sum(row["count"], row["seconds"], bool(row["is_open"])) for row in rows}


def get_contact(tx: Transaction) -> Contact:
    row = tx.execute("SELECT * FROM availability").fetchone()
    if row is None:
        return Contact()
    heard_at = None if row["heard_at"] is None else from_epoch(row["heard_at"])
    return Contact(row["posts"], heard_at, row["reliability"], row["failure"], bool(row["was_reached"]))


def get_record(tx: Transaction) -> Record | None:
    row = tx.execute("SELECT record FROM availability").fetchone()
    return None if row is None or row["record"] is None else document.decode(Record, row["record"])


def heard(
    tx: Transaction, at: datetime, reliability: float | None, record: Record | None, told: Iterable[StoredOutage]
) -> None:
    """A post was answered. `record` None: nothing new; `told`: the outages that went with it."""
    _row(tx)
    tx.execute(
        "UPDATE availability SET posts = posts + 1, heard_at = ?, reliability = ?, failure = NULL, was_reached = 0",
        (at.timestamp(), reliability),
    )
    if record is not None:
        tx.execute("UPDATE availability SET record = ?", (document.encode(record),))
    for one in told:
        tx.execute("UPDATE outages SET told_version = ? WHERE number = ?", (one.version, one.number))


def failed(tx: Transaction, code: str, *, was_reached: bool) -> None:
    _row(tx)
    tx.execute("UPDATE availability SET failure = ?, was_reached = ?", (code, was_reached))


def put_stop(tx: Transaction, stop: Stop | None) -> None:
    """None: the daemon runs."""
    _row(tx)
    boot_id, at_s = (None, None) if stop is None else (stop.boot_id, stop.at_s)
    tx.execute("UPDATE availability SET stop_boot_id = ?, stop_s = ?", (boot_id, at_s))


def get_stop(tx: Transaction) -> Stop | None:
    row = tx.execute("SELECT stop_boot_id, stop_s FROM availability").fetchone()
    return None if row is None or row["stop_boot_id"] is None else Stop(row["stop_boot_id"], row["stop_s"])


def put_pending(tx: Transaction, pending: Pending | None) -> None:
    _row(tx)
    text = None if pending is None else document.encode(pending)
    tx.execute("UPDATE availability SET pending = ?", (text,))


def get_pending(tx: Transaction) -> Pending | None:
    row = tx.execute("SELECT pending FROM availability").fetchone()
    return None if row is None or row["pending"] is None else document.decode(Pending, row["pending"])


def _follows(row: dict[str, float], outage: Outage) -> bool:
    return abs(outage.begin_at.timestamp() - row["end_at"]) < SAME_WITHIN.total_seconds()


def _row(tx: Transaction) -> None:
    tx.execute("INSERT OR IGNORE INTO availability (only_row) VALUES (1)")


def _rows(tx: Transaction, rest: str) -> tuple[StoredOutage, ...]:
    return tuple(
        StoredOutage(
            row["number"],
            row["version"],
            Outage(
                from_epoch(row["begin_at"]),
                None if row["end_at"] is None else from_epoch(row["end_at"]),
                Cause(row["cause"]),
                bool(row["is_rented"]),
                row["detail"],
            ),
            row["boot_id"],
            row["begin_s"],
        )
        for row in tx.execute(f"SELECT * FROM outages {rest}").fetchall()  # noqa: S608 fixed texts above
    )
