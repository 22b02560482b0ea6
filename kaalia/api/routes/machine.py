"""What this machine is."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import NotFoundError, answer
from kaalia.store import machine


async def show_report(request: web.Request) -> web.Response:
    """GET /v1/report: the latest capability report, a MachineReport."""
    report = await context.of(request).read(machine.get_report)
    if report is None:
        raise NotFoundError(
            "no_report_yet", "cannot show the report: none has been made yet", remedy="try again in a few seconds"
        )
    return answer(report)
