"""A prober that stands alone: one route, answered to whoever asks about the address that he asks from."""

from collections.abc import Iterable, Sequence

from aiohttp import web

from kaalia.errors import KaaliaError
from kaalia.prober import bounds
from kaalia.prober.bounds import Network, Origin
from kaalia.prober.work import Prober
from kaalia.wire import document
from kaalia.wire import error as wire_error
from kaalia.wire.error import ApiError
from kaalia.wire.probe import PATH_PROBE, ProbeRequest

BODY_MAX_BYTES = 256 * 1024
"""512 targets are 30 KiB."""


def build(prober: Prober, callers: Iterable[Network] = (), proxies: Sequence[Network] = ()) -> web.Application:
    """`callers`: networks that may ask; none: everybody. `proxies`: where ours are, if we are behind one."""
    may_ask = tuple(callers)

    async def answer(request: web.Request) -> web.Response:
        try:
            caller = _caller(request, may_ask, proxies)
            asked = _read(await request.read())
            reply = await prober.probe(caller.address, asked, is_direct=caller.is_direct)
        except KaaliaError as error:
            return _refusal(error)
        return web.Response(body=document.encode(reply).encode(), content_type="application/json")

    app = web.Application(client_max_size=BODY_MAX_BYTES)
    app.router.add_post(PATH_PROBE, answer)
    return app


def _caller(request: web.Request, may_ask: tuple[Network, ...], proxies: Sequence[Network]) -> Origin:
    caller = bounds.origin(request, proxies)
    if caller is None:
        raise bounds.hidden()
    if may_ask and not bounds.is_within(bounds.parse(caller.address), may_ask):
        raise ApiError(
            403,
            "probe_forbidden",
            f"cannot probe for {caller.address}: this prober serves other networks",
            remedy="let its operator add the address: kaalia probe serve --for NETWORK",
        )
    return caller


def _read(raw: bytes) -> ProbeRequest:
    try:
        return document.decode(ProbeRequest, raw)
    except KaaliaError as error:
        raise ApiError(400, error.code, error.problem.message) from error


def _refusal(error: KaaliaError) -> web.Response:
    status = error.status if isinstance(error, ApiError) else 500
    body = document.encode(wire_error.body(error)).encode()
    wait_s = error.extra.get("retry_after_s") if isinstance(error, ApiError) else None
    headers = None if wait_s is None else {"Retry-After": str(wait_s)}
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
