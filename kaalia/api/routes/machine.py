"""What this machine is. Measurements are ordered; the service that measures finds the order."""

from aiohttp import web
from pydantic_core import from_json

from kaalia.api import context
from kaalia.api.responses import NotFoundError, answer
from kaalia.errors import ConfigError, ContractError, KaaliaError
from kaalia.model.measurement import Bench
from kaalia.store import inventory, machine, measurements, speed
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.store.measurements import Order
from kaalia.wire import document
from kaalia.wire.local import MeasureWish


async def show_report(request: web.Request) -> web.Response:
    """GET /v1/report: the latest capability report, a MachineReport."""
    report = await context.of(request).read(machine.get_report)
    if report is None:
        raise NotFoundError(
            "no_report_yet", "cannot show the report: none has been made yet", remedy="try again in a few seconds"
        )
    return answer(report)


async def show_details(request: web.Request) -> web.Response:
    """GET /v1/report/details: a ReportDetails. The inventory goes as it is stored; the daemon does not read it."""
    return answer(await context.of(request).read(_details))


async def measure(request: web.Request) -> web.Response:
    """POST /v1/report/measure with a MeasureWish: 200 once the order is durable; a ReportDetails as it was before.

    Raises ConfigError `measure_wish_invalid`, ContractError `measure_tenants_run`.
    """
    here = context.of(request)
    now, wish = here.clock.now(), _wish(await request.read())

    def order(tx: Transaction) -> dict[str, object]:
        running = speed.tenants(tx, now).running
        if running and Bench.CPU in wish.benches and not wish.force:
            raise ContractError(
                "measure_tenants_run",
                f"cannot measure the CPU now: {running} tenants' instances run, and it would measure what they leave",
                remedy="wait until they are gone, or: kaalia report --measure cpu --force",
            )
        before = _details(tx)
        for bench in wish.benches:
            measurements.order(tx, Order(bench, now, wish.force))
        return before

    return answer(await here.write(order, Topic.MEASUREMENTS))


def _wish(raw: bytes) -> MeasureWish:
    try:
        return document.decode(MeasureWish, raw)
    except KaaliaError as error:
        raise ConfigError(
            "measure_wish_invalid", error.problem.message, remedy='send {"benches": ["cpu", "disk", "pcie"]}'
        ) from error


def _details(tx: Transaction) -> dict[str, object]:
    stored = inventory.get_json(tx)
    return {
        "inventory": None if stored is None else from_json(stored),
        "measurements": measurements.every(tx),
        "ordered": measurements.ordered(tx),
    }
