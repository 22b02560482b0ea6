"""The machine's own contracts: made, ended and forgotten here, and carried out by the reconciler like all others.

A crash leaves rows that nobody follows any more: whoever made them ends what it finds of its purpose at its start.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from kaalia.contracts.contract import Desired
from kaalia.contracts.local import LOCAL_FIRST, own_test
from kaalia.model.workload import WorkloadSpec, WorkloadState
from kaalia.store import certificates, contracts, workloads
from kaalia.store.database import Transaction

ORIGIN = "local"
NUMBERS_KEPT = 20


def make(tx: Transaction, purpose: str, specs: Iterable[WorkloadSpec], now: datetime, lasts: timedelta) -> list[int]:
    """One contract for each; their numbers. `now`: by the time of contracts."""
    row = tx.execute("SELECT max(contract_id) AS newest FROM local_contracts").fetchone()
    first = LOCAL_FIRST if row["newest"] is None else row["newest"] + 1
    made = []
    for contract_id, spec in enumerate(specs, first):
        entry = (contract_id, purpose, now.timestamp())
        tx.execute("INSERT INTO local_contracts (contract_id, purpose, made_at) VALUES (?, ?, ?)", entry)
        contracts.upsert(tx, own_test(contract_id, spec, now, lasts), now, ORIGIN)
        made.append(contract_id)
    return made


def of(tx: Transaction, purpose: str) -> list[int]:
    """The numbers of those that are not forgotten."""
    query = """SELECT contract_id FROM local_contracts JOIN contracts USING (contract_id)
                 WHERE purpose = ? ORDER BY contract_id"""
    return [row["contract_id"] for row in tx.execute(query, (purpose,)).fetchall()]


def end(tx: Transaction, contract_ids: Iterable[int], now: datetime) -> None:
    """The reconciler removes container and network, and proves them gone."""
    for contract_id in contract_ids:
        known = contracts.get(tx, contract_id)
        if known is not None and known.desired is not Desired.ENDED:
            contracts.upsert(tx, replace(known, desired=Desired.ENDED), now, ORIGIN)


def forget_ended(tx: Transaction, contract_ids: Iterable[int]) -> list[int]:
    """Those of them that are proven gone leave the books; the numbers of the others."""
    left = []
    for contract_id in contract_ids:
        status = workloads.get(tx, contract_id)
        if status is not None and status.state is WorkloadState.ENDED:
            contracts.delete(tx, contract_id)
            certificates.forget(tx, contract_id)
            workloads.delete(tx, contract_id)
        else:
            left.append(contract_id)
    tx.execute(
        """DELETE FROM local_contracts WHERE contract_id <= (SELECT max(contract_id) FROM local_contracts) - ?
             AND contract_id NOT IN (SELECT contract_id FROM contracts)""",
        (NUMBERS_KEPT,),
    )
    return left
