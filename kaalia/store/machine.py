"""The latest capability report, and the owner's listing as the marketplace last signed it."""

import hashlib

from kaalia.contracts.offer import Listing
from kaalia.model.machine import MachineReport
from kaalia.store.database import Transaction
from kaalia.wire.document import adapter

_REPORT = adapter(MachineReport)
_LISTING = adapter(Listing)


def put_report(tx: Transaction, report: MachineReport) -> None:
    document = _REPORT.dump_json(report).decode()
    digest = hashlib.sha256(document.encode()).hexdigest()
    tx.execute(
        "INSERT OR REPLACE INTO machine (only_row, report, digest, collected_at) VALUES (1, ?, ?, ?)",
        (document, digest, report.collected_at.timestamp()),
    )


def get_report(tx: Transaction) -> MachineReport | None:
    row = tx.execute("SELECT report FROM machine").fetchone()
    return _REPORT.validate_json(row["report"]) if row else None


def put_listing(tx: Transaction, listing: Listing | None) -> None:
    """None: the machine is not listed. Running contracts go on."""
    if listing is None:
        tx.execute("DELETE FROM listing")
        return
    tx.execute(
        "INSERT OR REPLACE INTO listing (only_row, document) VALUES (1, ?)", (_LISTING.dump_json(listing).decode(),)
    )


def get_listing(tx: Transaction) -> Listing | None:
    row = tx.execute("SELECT document FROM listing").fetchone()
    return _LISTING.validate_json(row["document"]) if row else None
