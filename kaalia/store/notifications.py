"""What waits to be told to the owner by each channel, what was told, and how the channels do. Bounded throughout."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.contracts.notification import GIVE_UP_AFTER, Facts, Noticed, next_try_s
from kaalia.store import conditions, enrolment, machine, maintenance, standing
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

WAITING_MAX = 500
"""Of one channel; the oldest make room."""
DONE_ROWS = 200
GIVEN_UP, DROPPED, REMOVED = "given up", "dropped: too many waited", "the channel is no longer configured"
SENT = "sent"
_NOTICED = adapter(Noticed)


@dataclass(frozen=True, slots=True)
class Queued:
    number: int
    message_id: str
    event: str
    document: str


@dataclass(frozen=True, slots=True)
class ChannelState:
    """`failures`: consecutive ones; `next_try_at` None: at once; `outcome`: of the last try."""

    failures: int = 0
    next_try_at: datetime | None = None
    failing_since: datetime | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Past:
    """One that waits (`done_at` None) or is done."""

    channel: str
    event: str
    created_at: datetime
    done_at: datetime | None
    outcome: str


def facts(tx: Transaction) -> Facts:
    seen, heard = standing.get(tx), standing.heard(tx)
    is_member = enrolment.get(tx) is not None
    return Facts(
        conditions=conditions.all_open(tx),
        listing=machine.get_listing(tx),
        windows=maintenance.windows(tx),
        verification=seen.standing.verification if seen else "",
        verified_before=seen.previous if seen else None,
        verification_at=seen.changed_at if seen else None,
        reports=seen.standing.reports if seen else (),
        heard_at=heard.at if heard and is_member else None,
        gap=heard.gap if heard else None,
    )


def noticed(tx: Transaction) -> dict[str, Noticed]:
    rows = tx.execute("SELECT key, document FROM notified").fetchall()
    return {row["key"]: _NOTICED.validate_json(row["document"]) for row in rows}


def put_noticed(tx: Transaction, changed: Mapping[str, Noticed], forget: Iterable[str]) -> None:
    for key, one in changed.items():
        row = (key, _NOTICED.dump_json(one).decode())
        tx.execute("INSERT OR REPLACE INTO notified (key, document) VALUES (?, ?)", row)
    for key in forget:
        tx.execute("DELETE FROM notified WHERE key = ?", (key,))


def add(tx: Transaction, channel: str, message_id: str, event: str, document: str, now: datetime) -> None:
    """Behind all that waits."""
    tx.execute(
        "INSERT INTO notifications (channel, message_id, event, document, created_at) VALUES (?, ?, ?, ?, ?)",
        (channel, message_id, event, document, now.timestamp()),
    )
    tx.execute(
        """UPDATE notifications SET done_at = ?, outcome = ? WHERE number IN (SELECT number FROM notifications
             WHERE channel = ? AND done_at IS NULL ORDER BY number DESC LIMIT -1 OFFSET ?)""",
        (now.timestamp(), DROPPED, channel, WAITING_MAX),
    )
    _prune(tx)


def waiting(tx: Transaction, channel: str, limit: int) -> tuple[Queued, ...]:
    """The oldest first."""
    query = """SELECT number, message_id, event, document FROM notifications
                 WHERE channel = ? AND done_at IS NULL ORDER BY number LIMIT ?"""
    rows = tx.execute(query, (channel, limit)).fetchall()
    return tuple(Queued(row["number"], row["message_id"], row["event"], row["document"]) for row in rows)


def counts(tx: Transaction) -> dict[str, int]:
    """How many wait, by channel."""
    rows = tx.execute("SELECT channel, count(*) AS n FROM notifications WHERE done_at IS NULL GROUP BY channel")
    return {row["channel"]: row["n"] for row in rows.fetchall()}


def settle(tx: Transaction, numbers: Iterable[int], outcome: str, now: datetime) -> None:
    """These are done, one way or another."""
    for number in numbers:
        tx.execute(
            "UPDATE notifications SET done_at = ?, outcome = ? WHERE number = ?", (now.timestamp(), outcome, number)
        )
    _prune(tx)


def works(tx: Transaction, channel: str, outcome: str) -> None:
    """The channel took something."""
    _put_state(tx, channel, ChannelState(outcome=outcome))


def refuses(tx: Transaction, channel: str, outcome: str, now: datetime) -> None:
    """The channel answers, and takes nothing: it is not left alone, and who reads how it does is told."""
    known = states(tx).get(channel, ChannelState())
    _put_state(tx, channel, ChannelState(known.failures + 1, None, known.failing_since or now, outcome))


def fails(tx: Transaction, channel: str, outcome: str, now: datetime) -> ChannelState:
    """The channel took nothing: it is left alone for a while; what waited for too long is given up."""
    known = states(tx).get(channel, ChannelState())
    failures = known.failures + 1
    state = ChannelState(
        failures, from_epoch(now.timestamp() + next_try_s(failures)), known.failing_since or now, outcome
    )
    _put_state(tx, channel, state)
    tx.execute(
        "UPDATE notifications SET done_at = ?, outcome = ? WHERE channel = ? AND done_at IS NULL AND created_at < ?",
        (now.timestamp(), GIVEN_UP, channel, (now - GIVE_UP_AFTER).timestamp()),
    )
    _prune(tx)
    return state


def keep_only(tx: Transaction, channels: Iterable[str], now: datetime) -> None:
    """The channels of the configuration; what waits for others never goes."""
    known = set(channels)
    for channel in {*states(tx), *counts(tx)} - known:
        tx.execute("DELETE FROM notify_channels WHERE channel = ?", (channel,))
        tx.execute(
            "UPDATE notifications SET done_at = ?, outcome = ? WHERE channel = ? AND done_at IS NULL",
            (now.timestamp(), REMOVED, channel),
        )
    _prune(tx)
    # A new start, with new settings perhaps: everything is worth a try at once.
    tx.execute("UPDATE notify_channels SET next_try_at = NULL WHERE next_try_at IS NOT NULL")


def states(tx: Transaction) -> dict[str, ChannelState]:
    rows = tx.execute("SELECT * FROM notify_channels").fetchall()
    return {
        row["channel"]: ChannelState(
            row["failures"],
            None if row["next_try_at"] is None else from_epoch(row["next_try_at"]),
            None if row["failing_since"] is None else from_epoch(row["failing_since"]),
            row["outcome"],
        )
        for row in rows
    }


def newest(tx: Transaction, limit: int) -> tuple[Past, ...]:
    rows = tx.execute("SELECT * FROM notifications ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
    return tuple(
        Past(
            row["channel"],
            row["event"],
            from_epoch(row["created_at"]),
            None if row["done_at"] is None else from_epoch(row["done_at"]),
            row["outcome"],
        )
        for row in rows
    )


def _put_state(tx: Transaction, channel: str, state: ChannelState) -> None:
    times = [None if at is None else at.timestamp() for at in (state.next_try_at, state.failing_since)]
    tx.execute(
        """INSERT OR REPLACE INTO notify_channels (channel, failures, next_try_at, failing_since, outcome)
           VALUES (?, ?, ?, ?, ?)""",
        (channel, state.failures, *times, state.outcome),
    )


def _prune(tx: Transaction) -> None:
    tx.execute(
        """DELETE FROM notifications WHERE done_at IS NOT NULL AND number NOT IN (SELECT number FROM notifications
             WHERE done_at IS NOT NULL ORDER BY number DESC LIMIT ?)""",
        (DONE_ROWS,),
    )
