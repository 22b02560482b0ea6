"""The owner's cordon. The wish is written; the reconciler obeys it, and the next heartbeat tells the marketplace."""

from datetime import datetime

from aiohttp import web

from kaalia.api import context, drain
from kaalia.api.responses import answer
from kaalia.contracts import cordon
from kaalia.contracts.cordon import Cordon
from kaalia.errors import ConfigError, KaaliaError
from kaalia.store import maintenance
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire import document
from kaalia.wire.local import DrainOrder, DrainStatus

RINGS = (Topic.CONTRACTS, Topic.OUTBOX)


async def show(request: web.Request) -> web.Response:
    """GET /v1/drain: a DrainStatus."""
    here = context.of(request)
    now = here.clock.now()
    return answer(await here.read(lambda tx: drain.read(tx, now)))


async def place(request: web.Request) -> web.Response:
    """PUT /v1/drain with a DrainOrder: cordon, or change the date of the cordon. Raises ConfigError."""
    here = context.of(request)
    now, order = here.clock.now(), _order(await request.read())
    if order.until_at is not None and order.until_at <= now:
        raise ConfigError(
            "drain_until_past",
            f"cannot drain until {order.until_at:%Y-%m-%d %H:%M} UTC: it is past",
            remedy=f"give a date after {now:%Y-%m-%d %H:%M} UTC, or none",
        )

    def write(tx: Transaction) -> DrainStatus:
        _place(tx, order, now)
        return drain.read(tx, now)

    return answer(await here.write(write, *RINGS))


async def lift(request: web.Request) -> web.Response:
    """DELETE /v1/drain: admit new contracts again; without a cordon nothing changes."""
    here = context.of(request)
    now = here.clock.now()

    def write(tx: Transaction) -> DrainStatus:
        maintenance.lift_cordon(tx)
        return drain.read(tx, now)

    return answer(await here.write(write, *RINGS))


def _place(tx: Transaction, order: DrainOrder, now: datetime) -> None:
    """One that is up already keeps its beginning, and what was done about it."""
    stored = maintenance.get_cordon(tx)
    if stored is None or not cordon.is_up(stored.cordon, now):
        maintenance.put_cordon(tx, Cordon(now, order.until_at))
    else:
        maintenance.set_until(tx, order.until_at)


def _order(raw: bytes) -> DrainOrder:
    try:
        return document.decode(DrainOrder, raw) if raw.strip() else DrainOrder()
    except KaaliaError as error:
        raise ConfigError("drain_invalid", error.problem.message, remedy='send {"until_at": null} or a date') from error
