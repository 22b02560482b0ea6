"""Certificates of contracts' Jupyters, and for which names each contract should have one.

Written by `sync`; those of the machine's own contracts, of which no marketplace hears, by whoever makes these.
"""

from collections.abc import Collection

from kaalia.contracts import certificate as rules
from kaalia.contracts.local import is_local
from kaalia.model.certificate import Certificate
from kaalia.store import contracts, machine, relays
from kaalia.store.database import Transaction
from kaalia.wire import document


def put(tx: Transaction, certificate: Certificate) -> None:
    row = (certificate.contract_id, document.encode(certificate))
    tx.execute("INSERT OR REPLACE INTO certificates (contract_id, document) VALUES (?, ?)", row)


def all_certificates(tx: Transaction) -> dict[int, Certificate]:
    rows = tx.execute("SELECT contract_id, document FROM certificates").fetchall()
    return {row["contract_id"]: document.decode(Certificate, row["document"]) for row in rows}


def keep_only(tx: Transaction, contract_ids: Collection[int]) -> None:
    """Forget those of other contracts of a marketplace."""
    for contract_id in all_certificates(tx).keys() - set(contract_ids):
        if not is_local(contract_id):
            forget(tx, contract_id)


def forget(tx: Transaction, contract_id: int) -> None:
    tx.execute("DELETE FROM certificates WHERE contract_id = ?", (contract_id,))


def wanted(tx: Transaction) -> dict[int, tuple[str, ...]]:
    """By contract: the names that renters reach its Jupyter by, as this machine knows them."""
    found = [stored.contract for stored in contracts.all_contracts(tx) if rules.is_wanted(stored.contract)]
    if not found:
        return {}
    report = machine.get_report(tx)
    public_ip = None if report is None else report.network.public_ip
    hosts = {forward.contract_id: link.host for link in relays.links(tx) for forward in link.forwards}
    return {one.contract_id: rules.names(public_ip, hosts.get(one.contract_id)) for one in found}
