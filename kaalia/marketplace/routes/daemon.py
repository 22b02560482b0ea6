"""Routes for daemons: each request is signed by its machine's key, enrolment by the key that it brings."""

from dataclasses import replace
from typing import Any, TypeVar

from aiohttp import web

from kaalia.errors import KaaliaError
from kaalia.marketplace import clouds, daemons, enrolment, sightings
from kaalia.marketplace.daemons import Signed
from kaalia.marketplace.routing import MACHINE, Call, Route
from kaalia.prober import bounds
from kaalia.wire import document, signature
from kaalia.wire.error import ApiError
from kaalia.wire.probe import ProbeRequest
from kaalia.wire.protocol import LONG_POLL_S, EnrolRequest, StatusPost, TaskResult
from kaalia.wire.speed import SpeedRequest

T = TypeVar("T")


async def enrol(call: Call) -> web.Response:
    """No nonce is kept: strangers may come here, and the same request again has the same answer."""
    signed = await _signed(call)
    request = _read(EnrolRequest, signed)
    enrolment.check(request)
    key = signature.load_public_key(request.public_key)
    signature.verify_request(key, signed.method, signed.target, signed.headers, signed.body, call.context.clock.now())
    return _answer(await enrolment.enrol(call.context, request))


async def desired(call: Call) -> web.Response:
    await authenticated(call)
    epoch, revision = _number(call, "epoch", 0), _number(call, "revision", 0)
    wait_s = _number(call, "wait", int(LONG_POLL_S))
    envelope = await daemons.desired(call.context, call.number("machine_id"), epoch, revision, wait_s)
    return web.Response(status=204) if envelope is None else _answer(envelope)


async def status(call: Call) -> web.Response:
    signed = await authenticated(call)
    reply = await daemons.take_status(call.context, call.number("machine_id"), _read(StatusPost, signed))
    seen = call.origin
    return _answer(replace(reply, seen_address=None if seen is None else seen.address))


async def probe(call: Call) -> web.Response:
    """Tries ports of the address that the machine asks from."""
    signed = await authenticated(call)
    origin = call.origin
    if origin is None:
        raise bounds.hidden()
    asked = _read(ProbeRequest, signed)
    identity = f"machine {call.number('machine_id')}"
    reply = await call.context.prober.probe(origin.address, asked, is_direct=origin.is_direct, identity=identity)
    await sightings.note(call.context, call.number("machine_id"), asked, reply)
    return _answer(reply)


async def speed(call: Call) -> web.Response:
    """An order of a speed test. The bytes go on connections of their own, which prove it."""
    signed = await authenticated(call)
    request = _read(SpeedRequest, signed)
    if min(request.streams, request.seconds, request.bytes_max) < 1:
        raise ApiError(400, "speed_invalid", "cannot measure: streams, seconds and bytes_max must be 1 or more")
    if call.context.speed is None:
        raise ApiError(
            404,
            "speed_not_served",
            "cannot measure the speed: this marketplace has no speed peer",
            remedy="name another peer: speed.peer in the configuration, or kaalia speedtest --peer HOST:PORT",
        )
    return _answer(await call.context.speed.grant(f"machine {call.number('machine_id')}", request))


async def task_result(call: Call) -> web.Response:
    signed = await authenticated(call)
    task_id = call.request.match_info["task_id"]
    await daemons.take_result(call.context, call.number("machine_id"), task_id, _read(TaskResult, signed))
    return web.Response(status=204)


async def task_login(call: Call) -> web.Response:
    await authenticated(call)
    task_id = call.request.match_info["task_id"]
    return _answer(await daemons.task_login(call.context, call.number("machine_id"), task_id))


async def task_cloud(call: Call) -> web.Response:
    await authenticated(call)
    task_id = call.request.match_info["task_id"]
    return _answer(await clouds.login(call.context, call.number("machine_id"), task_id))


async def registry_login(call: Call) -> web.Response:
    await authenticated(call)
    login = await daemons.registry_login(call.context, call.number("machine_id"), call.number("contract_id"))
    return _answer(login)


_MACHINE = r"/kaalia/v1/machines/{machine_id:\d+}"

ROUTES: tuple[Route, ...] = (
    Route("POST", "/kaalia/v1/enroll", MACHINE, enrol),
    Route("GET", f"{_MACHINE}/desired", MACHINE, desired),
    Route("POST", f"{_MACHINE}/status", MACHINE, status),
    Route("POST", f"{_MACHINE}/probe", MACHINE, probe),
    Route("POST", f"{_MACHINE}/speed", MACHINE, speed),
    Route("PUT", _MACHINE + "/tasks/{task_id}/result", MACHINE, task_result),
    Route("POST", _MACHINE + "/tasks/{task_id}/login", MACHINE, task_login),
    Route("POST", _MACHINE + "/tasks/{task_id}/cloud", MACHINE, task_cloud),
    Route("POST", _MACHINE + r"/contracts/{contract_id:\d+}/registry-login", MACHINE, registry_login),
)


async def authenticated(call: Call) -> Signed:
    """The request, once the machine of the path is proven to have sent it. Raises ApiError 401."""
    signed = await _signed(call)
    await daemons.authenticate(call.context, call.number("machine_id"), signed)
    return signed


async def _signed(call: Call) -> Signed:
    request = call.request
    return Signed(request.method, request.raw_path, dict(request.headers), await request.read())


def _read(kind: type[T], signed: Signed) -> T:
    try:
        return document.decode(kind, signed.body)
    except KaaliaError as error:
        raise ApiError(400, error.code, error.problem.message) from error


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.query.get(name, str(default))
    if not (text.isdecimal() and len(text) < 16):
        raise ApiError(400, "query_invalid", f"cannot read {name}={text[:40]!r}: it must be a whole number")
    return int(text)


def _answer(reply: Any) -> web.Response:
    return web.Response(body=document.encode(reply).encode(), content_type="application/json")
