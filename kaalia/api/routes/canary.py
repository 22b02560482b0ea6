"""The machine's own test container. An order is written; the service that runs it finds it."""

from dataclasses import replace

from aiohttp import web

from kaalia.api import context
from kaalia.api.context import Context
from kaalia.api.responses import answer
from kaalia.errors import ContractError
from kaalia.model.canary import CanaryState
from kaalia.store import canary, enrolment
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire.canary import CanaryDocument


async def show(request: web.Request) -> web.Response:
    """GET /v1/canary: a CanaryDocument."""
    here = context.of(request)
    return answer(_document(here, await here.read(canary.get)))


async def run(request: web.Request) -> web.Response:
    """POST /v1/canary/run: 200 once the order is durable; what was known before it.

    Raises ContractError `canary_not_enrolled`.
    """
    here = context.of(request)
    now = here.clock.now()

    def order(tx: Transaction) -> CanaryState:
        if enrolment.get(tx) is None:
            raise ContractError(
                "canary_not_enrolled",
                "cannot test this machine by a container: it is not enrolled, so no container is its own",
                remedy="run: kaalia enroll URL --token-file FILE",
            )
        before = canary.get(tx)
        canary.change(tx, lambda state: replace(state, asked_at=state.asked_at or now, gave_way_at=None))
        return before

    return answer(_document(here, await here.write(order, Topic.CANARY)))


def _document(here: Context, state: CanaryState) -> CanaryDocument:
    every = here.canary_every
    return CanaryDocument(here.clock.now(), None if every is None else every.total_seconds() / 3600, state)
