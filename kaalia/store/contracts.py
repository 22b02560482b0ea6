"""Rows <-> Contract. Contracts of origin `marketplace` are written by `sync` only."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.contracts.contract import Contract
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_CONTRACT = adapter(Contract)
MARKETPLACE = "marketplace"
"""The origin of what was agreed elsewhere; the machine's own contracts are `local`."""


@dataclass(frozen=True, slots=True)
class StoredContract:
    """A contract and what the store knows around it. Missing: newer snapshots did not mention it."""

    contract: Contract
    origin: str
    missing_since: datetime | None
    missing_revisions: int


def upsert(tx: Transaction, contract: Contract, now: datetime, origin: str = MARKETPLACE) -> None:
    """Write the newest word on a contract; it is no longer missing."""
    tx.execute(
        """INSERT INTO contracts (contract_id, generation, document, origin, accepted_at) VALUES (?, ?, ?, ?, ?)
           ON CONFLICT (contract_id) DO UPDATE SET generation = excluded.generation,
             document = excluded.document, missing_since = NULL, missing_revisions = 0""",
        (contract.contract_id, contract.generation, _CONTRACT.dump_json(contract).decode(), origin, now.timestamp()),
    )


def mark_missing(tx: Transaction, contract_id: int, now: datetime) -> None:
    """A complete, newer snapshot did not mention this contract."""
    tx.execute(
        """UPDATE contracts SET missing_since = COALESCE(missing_since, ?),
             missing_revisions = missing_revisions + 1 WHERE contract_id = ?""",
        (now.timestamp(), contract_id),
    )


def delete(tx: Transaction, contract_id: int) -> None:
    tx.execute("DELETE FROM contracts WHERE contract_id = ?", (contract_id,))


def get(tx: Transaction, contract_id: int) -> Contract | None:
    row = tx.execute("SELECT document FROM contracts WHERE contract_id = ?", (contract_id,)).fetchone()
    return _CONTRACT.validate_json(row["document"]) if row else None


def all_contracts(tx: Transaction) -> tuple[StoredContract, ...]:
    rows = tx.execute("SELECT * FROM contracts ORDER BY contract_id").fetchall()
    return tuple(
        StoredContract(
            contract=_CONTRACT.validate_json(row["document"]),
            origin=row["origin"],
            missing_since=None if row["missing_since"] is None else from_epoch(row["missing_since"]),
            missing_revisions=row["missing_revisions"],
        )
        for row in rows
    )
