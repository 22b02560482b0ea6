"""Where this machine is enrolled, and the newest snapshot it accepted from there."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.store.changes import wait
from kaalia.store.database import Database, Transaction

LOOK_S = 2.0
"""`kaalia enroll` writes from another process, which rings no bell here."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """`marketplace_keys`: key id -> base64 of the raw Ed25519 public key that signs snapshots."""

    url: str
    machine_id: int
    marketplace_keys: dict[str, str]
    enrolled_at: datetime


@dataclass(frozen=True, slots=True)
class AcceptedSnapshot:
    epoch: int
    revision: int
    not_after: datetime
    envelope: str
    received_at: datetime


def put(tx: Transaction, enrolment: Enrolment) -> None:
    tx.execute(
        "INSERT INTO enrolment (only_row, url, machine_id, marketplace_keys, enrolled_at) VALUES (1, ?, ?, ?, ?)",
        (
            enrolment.url,
            enrolment.machine_id,
            json.dumps(enrolment.marketplace_keys),
            enrolment.enrolled_at.timestamp(),
        ),
    )


def get(tx: Transaction) -> Enrolment | None:
    row = tx.execute("SELECT * FROM enrolment").fetchone()
    if row is None:
        return None
    keys = json.loads(row["marketplace_keys"])
    return Enrolment(row["url"], row["machine_id"], keys, from_epoch(row["enrolled_at"]))


async def wait_for(database: Database, bell: asyncio.Event) -> Enrolment:
    """The enrolment, as soon as there is one. `bell`: of Topic.ENROLMENT."""
    while (found := await database.read(get)) is None:
        await wait(bell, LOOK_S)
    return found


def put_snapshot(tx: Transaction, snapshot: AcceptedSnapshot) -> None:
    tx.execute(
        """INSERT OR REPLACE INTO snapshot (only_row, epoch, revision, not_after, envelope, received_at)
           VALUES (1, ?, ?, ?, ?, ?)""",
        (
            snapshot.epoch,
            snapshot.revision,
            snapshot.not_after.timestamp(),
            snapshot.envelope,
            snapshot.received_at.timestamp(),
        ),
    )


def get_snapshot(tx: Transaction) -> AcceptedSnapshot | None:
    row = tx.execute("SELECT * FROM snapshot").fetchone()
    if row is None:
        return None
    return AcceptedSnapshot(
        row["epoch"], row["revision"], from_epoch(row["not_after"]), row["envelope"], from_epoch(row["received_at"])
    )
