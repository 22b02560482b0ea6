"""How reliable the machine is, and every outage that it knows of."""

from datetime import datetime

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import answer
from kaalia.contracts import reliability as rules
from kaalia.contracts.contract import OWN_KINDS
from kaalia.contracts.reliability import Line
from kaalia.model.availability import Record, Silence
from kaalia.model.workload import WorkloadState
from kaalia.store import availability, contracts, maintenance, workloads
from kaalia.store.database import Transaction
from kaalia.wire.availability import LedgerLine, ReliabilityDocument


async def show(request: web.Request) -> web.Response:
    """GET /v1/reliability: a ReliabilityDocument."""
    here = context.of(request)
    now = here.clock.now()
    return answer(await here.read(lambda tx: read(tx, now)))


def read(tx: Transaction, now: datetime) -> ReliabilityDocument:
    """What is true at `now`: a silence that is going on counts already, as it does on the marketplace."""
    contact, record = availability.get_contact(tx), availability.get_record(tx)
    going_on = None
    if record is not None and contact.heard_at is not None:
        going_on = rules.silence(record, contact.heard_at, now, maintenance.windows(tx))
    return ReliabilityDocument(
        as_of=now,
        reliability=None if record is None else rules.figure(record, now, going_on),
        told=contact.reliability,
        told_at=contact.heard_at,
        record=record,
        is_rented=_is_rented(tx),
        ledger=_ledger(tx, record, going_on, now),
    )


def _ledger(tx: Transaction, record: Record | None, going_on: Silence | None, now: datetime) -> tuple[LedgerLine, ...]:
    outages = availability.ledger(tx)
    if record is None:
        return tuple(LedgerLine(Line(one, None), None, None) for one in outages)
    known = rules.remembered(record, going_on, now)
    return tuple(_line(line, known, now) for line in rules.lines(outages, known, now))


def _line(line: Line, record: Record, now: datetime) -> LedgerLine:
    if line.silence is None:
        return LedgerLine(line, None, None)
    return LedgerLine(line, rules.cost(record, line.silence, now), rules.recovers_at(line.silence))


def _is_rented(tx: Transaction) -> bool:
    statuses = workloads.all_workloads(tx)
    rentals = (one.contract.contract_id for one in contracts.all_contracts(tx) if one.contract.kind not in OWN_KINDS)
    return any((told := statuses.get(one)) is not None and told.state is WorkloadState.RUNNING for one in rentals)
