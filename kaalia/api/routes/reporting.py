"""A report now: the order rings a bell, since a daemon that starts anew reports anyway."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import answer
from kaalia.store import enrolment
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction


async def send(request: web.Request) -> web.Response:
    """POST /v1/report/send: 200 once it is ordered; `{"ordered": "report", "to": URL}`; no URL before enrolment."""

    def look(tx: Transaction) -> str:
        member = enrolment.get(tx)
        return member.url if member else ""

    return answer({"ordered": "report", "to": await context.of(request).write(look, Topic.REPORT)})
