"""Which ports the outside reaches. An order is written; the service that probes finds it."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import answer
from kaalia.errors import ConfigError
from kaalia.store import conditions, machine, reach
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire.local import PortsDocument


async def show(request: web.Request) -> web.Response:
    """GET /v1/ports: a PortsDocument."""
    return answer(await context.of(request).read(_read))


async def probe(request: web.Request) -> web.Response:
    """POST /v1/ports/probe: 200 once the order is durable. Raises ConfigError `probe_off`."""
    here = context.of(request)
    now = here.clock.now()
    if not here.probes_ports:
        raise ConfigError(
            "probe_off",
            "cannot probe the ports: probe.url=off in the configuration",
            remedy="remove it, or name a prober; then: systemctl restart kaalia",
        )

    def order(tx: Transaction) -> PortsDocument:
        before = _read(tx)
        reach.order(tx, now)
        return before

    return answer(await here.write(order, Topic.PORTS))


def _read(tx: Transaction) -> PortsDocument:
    report = machine.get_report(tx)
    failed = [one for one in conditions.all_open(tx) if one.source == reach.SOURCE_PROBER]
    return PortsDocument(
        port_range=report.network.port_range if report else None,
        public_ip=report.network.public_ip if report else None,
        found=reach.get_map(tx),
        progress=reach.get_progress(tx),
        failure=failed[0].condition.problem if failed else None,
    )
