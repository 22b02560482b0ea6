"""Notices that the machine changed, and tells it: a GPU that is gone is an event, and never a silent new count."""

import logging

from kaalia.contracts import hardware as rules
from kaalia.contracts.hardware import Change, Kind
from kaalia.contracts.slicing import all_known
from kaalia.model.machine import MachineReport
from kaalia.store import conditions, hardware, machine
from kaalia.store.claims import ClaimKind, all_claims
from kaalia.store.database import Transaction

log = logging.getLogger(__name__)


def note(tx: Transaction, report: MachineReport) -> None:
    """Compare the report with what was known, in the transaction that stores it."""
    book, listing, at = hardware.get(tx), machine.get_listing(tx), report.collected_at
    if book is None and not (report.gpus or all_known(report)):
        return  # what a driver that does not answer leaves out is no news when it comes
    owners = {claim.key: claim.contract_id for claim in all_claims(tx) if claim.kind is ClaimKind.GPU}
    seen = rules.inventory(report, book.known if book else None)
    newer = rules.advance(book, seen, at, listing.min_gpu if listing else 1, owners)
    if newer == book and not newer.changes:
        return
    if newer != book:
        hardware.put(tx, newer)
        before = set(book.changes) if book else set[Change]()
        for change in newer.changes:
            if change not in before:
                _log(change)
    conditions.replace(tx, hardware.SOURCE, rules.conditions(newer, at), at)


def _log(change: Change) -> None:
    if change.until is not None:
        log.info("hardware: %s is back", change.scope)
    elif change.kind is Kind.GPU_GONE:
        log.error("hardware: %s: %s; %s", change.scope, change.message, change.consequence)
    else:
        log.warning("hardware: %s: %s; %s", change.scope, change.message, change.consequence)
