"""How fast the line is. An order is written; the service that measures finds it."""

from aiohttp import web

from kaalia.api import context
from kaalia.api.responses import answer
from kaalia.config_network import host_and_port
from kaalia.errors import ConfigError, ContractError, KaaliaError
from kaalia.model.speed import SpeedOrder
from kaalia.store import speed
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire import document
from kaalia.wire.local import SpeedDocument, SpeedWish


async def show(request: web.Request) -> web.Response:
    """GET /v1/speed: a SpeedDocument."""
    return answer(await context.of(request).read(_read))


async def test(request: web.Request) -> web.Response:
    """POST /v1/speed/test with a SpeedWish: 200 once the order is durable; what was known before it.

    Raises ConfigError `speed_off`, ContractError `speed_tenants_run`.
    """
    here = context.of(request)
    now, wish = here.clock.now(), _wish(await request.read())
    if not here.measures_speed and wish.peer is None:
        raise ConfigError(
            "speed_off",
            "cannot measure the speed: speed.peer=off in the configuration",
            remedy="name a peer: kaalia speedtest --peer HOST:PORT; or set speed.peer, then: systemctl restart kaalia",
        )

    def order(tx: Transaction) -> SpeedDocument:
        tenants = speed.tenants(tx, now)
        if tenants.running and not wish.force:
            raise ContractError(
                "speed_tenants_run",
                f"cannot measure the speed now: {tenants.running} tenants' instances run, with {tenants.mbps:.0f} Mb/s "
                "at the last reading, and a test takes the line from them",
                remedy="wait until they are gone, or: kaalia speedtest --force",
            )
        before = _read(tx)
        if not before.is_under_way:
            speed.put_order(tx, SpeedOrder(now, wish.peer, wish.secret, wish.force))
        return before

    return answer(await here.write(order, Topic.SPEED))


def _wish(raw: bytes) -> SpeedWish:
    try:
        wish = document.decode(SpeedWish, raw) if raw.strip() else SpeedWish()
        if wish.peer is not None:
            host_and_port(wish.peer)
        return wish
    except ValueError as error:
        raise ConfigError("speed_peer_invalid", f"cannot measure with {wish.peer!r}: it {error}") from error
    except KaaliaError as error:
        raise ConfigError("speed_wish_invalid", error.problem.message, remedy='send {"force": true}, or nothing') from (
            error
        )


def _read(tx: Transaction) -> SpeedDocument:
    progress = speed.get_progress(tx)
    return SpeedDocument(
        found=speed.get_result(tx),
        is_under_way=progress is not None or speed.get_order(tx) is not None,
        progress=progress,
        failure=speed.get_failure(tx),
    )
