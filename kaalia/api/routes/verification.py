"""Whether the marketplace holds this machine for verified, and what it lacks by the same requirements."""

from datetime import datetime

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import answer
from kaalia.contracts import reliability, requirement_facts, requirements
from kaalia.model.selftest import RequirementVerdict
from kaalia.store import availability, enrolment, machine, standing
from kaalia.store.database import Transaction
from kaalia.wire import facts
from kaalia.wire.verification import VerificationDocument


async def show(request: web.Request) -> web.Response:
    """GET /v1/verification: a VerificationDocument."""
    here = context.of(request)
    now = here.clock.now()
    return answer(await here.read(lambda tx: read(tx, now)))


def read(tx: Transaction, now: datetime) -> VerificationDocument:
    known, report, record = standing.get(tx), machine.get_report(tx), availability.get_record(tx)
    verdicts: tuple[RequirementVerdict, ...] = ()
    if report is not None:
        told = None if record is None else reliability.figure(record, now)
        verdicts = requirements.verdicts(requirement_facts.of(report, told, facts.encode(report)["total_flops"]))
    return VerificationDocument(
        as_of=now,
        is_enrolled=enrolment.get(tx) is not None,
        state="" if known is None else known.standing.verification,
        told_at=None if known is None else known.changed_at,
        view=None if known is None else known.standing.view,
        verdicts=verdicts,
    )
