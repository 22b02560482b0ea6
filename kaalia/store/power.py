"""What kaalia set on GPUs, written before it is set; and what each GPU is used for."""

from collections.abc import Iterable

from kaalia.contracts.contract import ContractKind
from kaalia.contracts.power import Use, use_of
from kaalia.model.power import PowerMark
from kaalia.store import contracts
from kaalia.store.claims import ClaimKind, all_claims
from kaalia.store.database import Transaction


def marks(tx: Transaction) -> dict[str, PowerMark]:
    """By UUID, of this boot or another."""
    rows = tx.execute("SELECT * FROM power_marks").fetchall()
    return {
        row["uuid"]: PowerMark(row["uuid"], row["boot_id"], row["before_w"], row["power_w"], row["clock_max_mhz"])
        for row in rows
    }


def put(tx: Transaction, changed: Iterable[PowerMark], gone: Iterable[str]) -> None:
    for one in changed:
        tx.execute(
            """INSERT OR REPLACE INTO power_marks (uuid, boot_id, before_w, power_w, clock_max_mhz)
               VALUES (?, ?, ?, ?, ?)""",
            (one.uuid, one.boot_id, one.before_w, one.power_w, one.clock_max_mhz),
        )
    for uuid in gone:
        tx.execute("DELETE FROM power_marks WHERE uuid = ?", (uuid,))


def uses(tx: Transaction) -> dict[str, Use]:
    """By UUID; a GPU that nobody holds is not mentioned. A holder that the books do not know counts as a rental."""
    kinds = {each.contract.contract_id: each.contract.kind for each in contracts.all_contracts(tx)}
    held: dict[str, list[ContractKind]] = {}
    for claim in all_claims(tx):
        if claim.kind is ClaimKind.GPU:
            held.setdefault(claim.key, []).append(kinds.get(claim.contract_id, ContractKind.ON_DEMAND))
    return {uuid: use_of(those) for uuid, those in held.items()}
