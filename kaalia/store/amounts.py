"""Who has how much of what adds up: disk, memory, CPU. No sum of claims grows beyond what the machine has (I2)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from kaalia.clock import from_epoch
from kaalia.errors import StoreError
from kaalia.store.database import Transaction

_ALL = "SELECT * FROM amounts ORDER BY kind, owner, owner_id"


class AmountKind(StrEnum):
    DISK = "disk"
    """Bytes."""
    CPU = "cpu"
    """Thousandths of a logical core: a share, beyond which a workload may burst."""
    RAM = "ram"
    """Bytes."""


class OwnerKind(StrEnum):
    CONTRACT = "contract"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Amount:
    """`owner_id`: of the contract or of the volume. A volume has one generation, the first."""

    kind: AmountKind
    owner: OwnerKind
    owner_id: int
    generation: int
    amount: int


def claim(
    tx: Transaction, amounts: Iterable[Amount], now: datetime, limits: Mapping[AmountKind, int] | None = None
) -> None:
    """Take all of them or raise StoreError `claim_exceeds`. What an owner has already is kept, and never refused.

    `limits`: what the machine has of a kind; a kind without one is counted and not refused.
    """
    for wanted in amounts:
        has = _held(tx, wanted)
        limit = (limits or {}).get(wanted.kind)
        left = None if limit is None else limit - total(tx, wanted.kind) + has
        if left is not None and wanted.amount > max(has, left):
            raise StoreError(
                "claim_exceeds",
                f"cannot give {wanted.amount} of {wanted.kind} to {wanted.owner} {wanted.owner_id}: "
                f"{max(left, 0)} are left",
                remedy="see who has it: kaalia ledger",
                evidence=f"{limit} in all",
            )
        tx.execute(
            """INSERT INTO amounts (kind, owner, owner_id, generation, amount, claimed_at) VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT (kind, owner, owner_id)
               DO UPDATE SET generation = excluded.generation, amount = excluded.amount""",
            (wanted.kind, wanted.owner, wanted.owner_id, wanted.generation, wanted.amount, now.timestamp()),
        )


def release(tx: Transaction, owner: OwnerKind, owner_id: int, kinds: Iterable[AmountKind] = tuple(AmountKind)) -> None:
    """Give back. Called once the thing is proven gone (CPU and RAM: proven stopped)."""
    for kind in kinds:
        tx.execute("DELETE FROM amounts WHERE owner = ? AND owner_id = ? AND kind = ?", (owner, owner_id, kind))


def total(tx: Transaction, kind: AmountKind) -> int:
    row = tx.execute("SELECT COALESCE(SUM(amount), 0) AS total FROM amounts WHERE kind = ?", (kind,)).fetchone()
    return int(row["total"])


def all_amounts(tx: Transaction) -> tuple[Amount, ...]:
    return tuple(_amount(row) for row in tx.execute(_ALL).fetchall())


def with_times(tx: Transaction) -> tuple[tuple[Amount, datetime], ...]:
    """Each with the moment since which its owner has it."""
    return tuple((_amount(row), from_epoch(row["claimed_at"])) for row in tx.execute(_ALL).fetchall())


def _amount(row: Any) -> Amount:
    kind, owner = AmountKind(row["kind"]), OwnerKind(row["owner"])
    return Amount(kind, owner, row["owner_id"], row["generation"], row["amount"])


def _held(tx: Transaction, wanted: Amount) -> int:
    row = tx.execute(
        "SELECT amount FROM amounts WHERE kind = ? AND owner = ? AND owner_id = ?",
        (wanted.kind, wanted.owner, wanted.owner_id),
    ).fetchone()
    return 0 if row is None else int(row["amount"])
