"""What is wrong with the machine, and what was."""

from aiohttp import web

from kaalia.api import context, status
from kaalia.api.responses import answer
from kaalia.contracts.symptoms import causes
from kaalia.model.canary import CanaryState
from kaalia.model.health import OpenCondition, PastCondition
from kaalia.store import canary, conditions
from kaalia.store.database import Transaction
from kaalia.wire.health import HealthDocument

PAST_SHOWN = 50


async def show(request: web.Request) -> web.Response:
    """GET /v1/health: a HealthDocument; in safe mode with nothing but the reason for that."""
    here = context.of(request)
    told = await status.read(here)
    open_now, past, proof = ((), (), None) if here.safe_mode else await here.read(_read)
    codes = {one.condition.problem.code for one in open_now}
    problems = tuple(one for one in told.problems if one.code not in codes)
    return answer(HealthDocument(told.as_of, problems, open_now, past, proof))


def _read(tx: Transaction) -> tuple[tuple[OpenCondition, ...], tuple[PastCondition, ...], CanaryState | None]:
    return causes(conditions.all_open(tx)), conditions.past(tx, PAST_SHOWN), canary.get(tx)
