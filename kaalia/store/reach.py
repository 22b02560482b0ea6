"""The newest map of ports, a probe that is ordered or under way, and the address that the marketplace sees."""

from datetime import datetime

from kaalia.model.reach import PortMap, ProbeProgress
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

SOURCE_MAP, SOURCE_PROBER = "reach", "prober"
"""Of conditions: what the newest map shows; why there is no newer one."""

_MAP = adapter(PortMap)
_PROGRESS = adapter(ProbeProgress)


def put_map(tx: Transaction, found: PortMap) -> None:
    document = _MAP.dump_json(found).decode()
    tx.execute("INSERT OR REPLACE INTO port_map (only_row, document) VALUES (1, ?)", (document,))


def get_map(tx: Transaction) -> PortMap | None:
    row = tx.execute("SELECT document FROM port_map").fetchone()
    return None if row is None else _MAP.validate_json(row["document"])


def forget(tx: Transaction) -> None:
    """Nobody probes any more: what was proven once is proven no longer."""
    for table in ("port_map", "port_probe"):
        tx.execute(f"DELETE FROM {table}")  # noqa: S608 names of our own


def order(tx: Transaction, now: datetime) -> None:
    """Ask for a probe; one that is ordered or under way already is the one."""
    if get_progress(tx) is None:
        put_progress(tx, ProbeProgress(now))


def put_progress(tx: Transaction, progress: ProbeProgress | None) -> None:
    """None: nothing is ordered."""
    if progress is None:
        tx.execute("DELETE FROM port_probe")
        return
    document = _PROGRESS.dump_json(progress).decode()
    tx.execute("INSERT OR REPLACE INTO port_probe (only_row, document) VALUES (1, ?)", (document,))


def get_progress(tx: Transaction) -> ProbeProgress | None:
    row = tx.execute("SELECT document FROM port_probe").fetchone()
    return None if row is None else _PROGRESS.validate_json(row["document"])


def put_seen_address(tx: Transaction, address: str) -> None:
    tx.execute("INSERT OR REPLACE INTO seen_address (only_row, address) VALUES (1, ?)", (address,))


def get_seen_address(tx: Transaction) -> str | None:
    row = tx.execute("SELECT address FROM seen_address").fetchone()
    return None if row is None else str(row["address"])
