"""What the GPUs of each contract used: counted with each reading of the driver, now and then a line of the journal."""

from collections.abc import Mapping
from datetime import datetime

from kaalia.clock import from_epoch
from kaalia.contracts import energy
from kaalia.contracts.energy import Tally
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.store import claims, contracts, journal
from kaalia.store.claims import ClaimKind
from kaalia.store.database import Transaction


def count(tx: Transaction, counters: Mapping[str, int], now: datetime) -> None:
    """`counters`: GPU UUID -> its millijoules since the driver was loaded. A GPU that did not tell counts later."""
    owners = {one.key: one.contract_id for one in claims.all_claims(tx) if one.kind is ClaimKind.GPU}
    known = _tallies(tx)
    held = {(owner, uuid): counters[uuid] for uuid, owner in owners.items() if uuid in counters}
    for key, counter_mj in held.items():
        _put(tx, key, energy.counted(known.get(key), counter_mj, now))
    for (contract_id, uuid), tally in known.items():
        if owners.get(uuid) != contract_id and tally.last_mj is not None:
            _put(tx, (contract_id, uuid), energy.released(tally, now))
    if known or held:
        _write_lines(tx, set(owners.values()), now)
        tx.execute("DELETE FROM energy WHERE contract_id NOT IN (SELECT contract_id FROM contracts)")


def totals(tx: Transaction) -> dict[int, float]:
    """Contract -> joules of all its GPUs, those that it gave back too."""
    rows = tx.execute("SELECT contract_id, sum(total_mj) AS mj FROM energy GROUP BY contract_id").fetchall()
    return {row["contract_id"]: row["mj"] / 1000 for row in rows}


def _write_lines(tx: Transaction, holders: set[int], now: datetime) -> None:
    for contract_id, joules in totals(tx).items():
        last = tx.execute(
            "SELECT amount, written_at FROM journal WHERE contract_id = ? AND meter = ? ORDER BY entry_id DESC LIMIT 1",
            (contract_id, Meter.ENERGY),
        ).fetchone()
        amount = round(joules)
        is_due = last is None or contract_id not in holders or now - from_epoch(last["written_at"]) >= energy.LINE_EVERY
        if is_due and amount > (last["amount"] if last else 0):
            contract = contracts.get(tx, contract_id)
            generation = contract.generation if contract else 1
            journal.add(tx, [Entry(contract_id, generation, Meter.ENERGY, Edge.COUNT, now, amount)], now)


def _tallies(tx: Transaction) -> dict[tuple[int, str], Tally]:
    rows = tx.execute("SELECT * FROM energy").fetchall()
    return {
        (row["contract_id"], row["gpu_uuid"]): Tally(row["total_mj"], row["last_mj"], from_epoch(row["read_at"]))
        for row in rows
    }


def _put(tx: Transaction, key: tuple[int, str], tally: Tally) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO energy (contract_id, gpu_uuid, total_mj, last_mj, read_at) VALUES (?, ?, ?, ?, ?)",
        (*key, tally.total_mj, tally.last_mj, tally.read_at.timestamp()),
    )
