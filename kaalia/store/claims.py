"""Who owns which GPU, host port and subnet. The primary key makes a second owner impossible (I2).

What adds up instead of being one thing, such as bytes of disk, stands in `amounts`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.clock import from_epoch
from kaalia.errors import StoreError
from kaalia.store.database import Transaction

MACHINE = 0
"""In place of a contract's number: ports that the machine uses itself for a while. No audit looks at these."""


class ClaimKind(StrEnum):
    GPU = "gpu"
    PORT_TCP = "port/tcp"
    PORT_UDP = "port/udp"
    SUBNET = "subnet"


@dataclass(frozen=True, slots=True)
class Claim:
    kind: ClaimKind
    key: str
    contract_id: int
    generation: int


def claim(tx: Transaction, claims: Iterable[Claim], now: datetime) -> None:
    """Take all of them or raise StoreError `claim_taken`; what the same contract holds already is kept."""
    for wanted in claims:
        tx.execute(
            """INSERT INTO claims (kind, key, contract_id, generation, claimed_at) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (kind, key) DO UPDATE SET generation = excluded.generation
               WHERE contract_id = excluded.contract_id""",
            (wanted.kind, wanted.key, wanted.contract_id, wanted.generation, now.timestamp()),
        )
        row = tx.execute(
            "SELECT contract_id FROM claims WHERE kind = ? AND key = ?", (wanted.kind, wanted.key)
        ).fetchone()
        if row["contract_id"] != wanted.contract_id:
            raise StoreError(
                "claim_taken",
                f"cannot give {wanted.kind} {wanted.key} to contract {wanted.contract_id}: "
                f"contract {row['contract_id']} has it",
            )


def release(tx: Transaction, contract_id: int, kinds: Iterable[ClaimKind] = tuple(ClaimKind)) -> None:
    """Give back. Called once the container is proven gone (or, for GPUs, proven stopped)."""
    for kind in kinds:
        tx.execute("DELETE FROM claims WHERE contract_id = ? AND kind = ?", (contract_id, kind))


def all_claims(tx: Transaction) -> tuple[Claim, ...]:
    return tuple(claim for claim, _ in with_times(tx))


def of_contracts(tx: Transaction) -> tuple[Claim, ...]:
    return tuple(claim for claim in all_claims(tx) if claim.contract_id != MACHINE)


def give_back(tx: Transaction, kind: ClaimKind, key: str, contract_id: int) -> None:
    """One thing, if it is that owner's."""
    tx.execute("DELETE FROM claims WHERE kind = ? AND key = ? AND contract_id = ?", (kind, key, contract_id))


def with_times(tx: Transaction) -> tuple[tuple[Claim, datetime], ...]:
    """Each with the moment since which its owner has it."""
    rows = tx.execute("SELECT * FROM claims").fetchall()
    return tuple(
        (Claim(ClaimKind(r["kind"]), r["key"], r["contract_id"], r["generation"]), from_epoch(r["claimed_at"]))
        for r in rows
    )
