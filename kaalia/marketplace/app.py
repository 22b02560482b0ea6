"""The web application: the routes of every module, and what is the same for each of them.

Paths match with and without a last slash and with doubled slashes, never by redirect: a redirect turns PUT into GET.
Answers are JSON with exactly `Content-Type: application/json`: the public client refuses a charset.
"""

import json
import re
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from kaalia.errors import ContractError, KaaliaError, MarketplaceError, WorkloadError
from kaalia.marketplace import auth
from kaalia.marketplace.context import CONTEXT, Context
from kaalia.marketplace.limits import RateLimit
from kaalia.marketplace.routes import (
    accounts,
    authority,
    benchmarks,
    billing,
    clouds,
    copies,
    daemon,
    increases,
    instance_keys,
    instances,
    machines,
    maintenance,
    offers,
    priority,
    relays,
    schedules,
    templates,
    upkeep,
    volumes,
)
from kaalia.marketplace.routing import MACHINE, PUBLIC, Call, Caller, Route, address_of
from kaalia.service import answer_anyway
from kaalia.wire import error as wire_error
from kaalia.wire.error import ApiError

ROUTES: tuple[Route, ...] = (
    *accounts.ROUTES,
    *maintenance.ROUTES,
    *machines.ROUTES,
    *upkeep.ROUTES,
    *offers.ROUTES,
    *instances.ROUTES,
    *instance_keys.ROUTES,
    *copies.ROUTES,
    *clouds.ROUTES,
    *increases.ROUTES,
    *priority.ROUTES,
    *schedules.ROUTES,
    *templates.ROUTES,
    *volumes.ROUTES,
    *billing.ROUTES,
    *daemon.ROUTES,
    *relays.ROUTES,
    *authority.ROUTES,
    *benchmarks.ROUTES,
)

BODY_MAX_BYTES = 1024 * 1024
"""A renter's or owner's request; scripts and environments fit many times over."""
MACHINE_BODY_MAX_BYTES = 8 * 1024 * 1024
"""A machine's post: a task result of 1 MiB of text may grow sixfold by JSON escapes."""
REASON_CHARS = 200
"""Of a message in the status line."""

_SEARCHES = frozenset({"/api/v0/bundles", "/api/v0/search/asks"})
_LIMITS = web.AppKey("limits", dict[str, RateLimit])
_PATHS = web.AppKey("paths", dict[str, str])
"""What the router calls a path, and how its route is written."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(context: Context) -> web.Application:
    """The application of one marketplace."""
    app = web.Application(middlewares=[_answer_errors], client_max_size=MACHINE_BODY_MAX_BYTES)
    app[CONTEXT] = context
    app[_PATHS] = {}
    app[_LIMITS] = {
        "requests": RateLimit(context.settings.requests_per_minute),
        "searches": RateLimit(context.settings.searches_per_minute),
    }
    for route in ROUTES:
        resource = app.router.add_route(route.method, pattern(route.path), _handler(route)).resource
        if resource is not None:
            app[_PATHS][resource.canonical] = route.path
    return app


def pattern(path: str) -> str:
    """The aiohttp path that matches `path` with any number of slashes for one, and with or without a last one."""
    bounded = path.replace(r"\d+", "[0-9]{1,18}")  # what a 64-bit column holds
    parts = [f"{{_{number}:/+}}{part}" for number, part in enumerate(bounded.strip("/").split("/"))]
    parts[0] = parts[0].replace("{_0:/+}", "/{_0:/*}")
    return "".join(parts) + "{_end:/*}"


class AccessLog(AbstractAccessLogger):
    """One line a request, without query, key or unguessable part of the path."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        path = _log_path(request)
        self.logger.info("%s %s %s %d %.1f ms", request.remote, request.method, path, response.status, time * 1000)


def _log_path(request: web.BaseRequest) -> str:
    resource = request.match_info.route.resource if isinstance(request, web.Request) else None
    path = request.app[_PATHS].get(resource.canonical) if isinstance(request, web.Request) and resource else None
    if path is None:
        return repr(request.path[:120])
    return request.path if _only_numbers(path) else path


def _only_numbers(path: str) -> bool:
    """Every placeholder is a number, so that the path as sent holds nothing that must not be known."""
    return "{" not in re.sub(r"\{\w+:\\d\+\}", "", path)


def _handler(route: Route) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        raw = await _read(request, route) if request.can_read_body else b""
        body = {} if route.access == MACHINE else _decode(raw)  # a machine's handler reads its own document
        caller = None if route.access in {PUBLIC, MACHINE} else await _caller(context, request, route, body)
        _count(request, route, caller)
        answer = await route.handler(Call(request, context, body, caller, request.match_info))
        return answer if isinstance(answer, web.StreamResponse) else json_response(answer)

    return handle


async def _caller(context: Context, request: web.Request, route: Route, body: dict[str, Any]) -> Caller:
    try:
        key = await auth.identify(context, request)
    except ApiError:
        _count(request, route, None)  # guessing keys costs the guesser's address
        raise
    path = {name: value for name, value in request.match_info.items() if not name.startswith("_")}
    auth.authorise(key, route, auth.parameters(request.query, body, path))
    return key.caller


def _count(request: web.Request, route: Route, caller: Caller | None) -> None:
    limits, now_s = request.app[_LIMITS], request.app[CONTEXT].clock.monotonic_s()
    identity = f"address {address_of(request, request.app[CONTEXT])}" if caller is None else f"key {caller.key_id}"
    limits["requests"].take(identity, now_s)
    if route.path in _SEARCHES:
        limits["searches"].take(identity, now_s)


async def _read(request: web.Request, route: Route) -> bytes:
    raw = await request.read()
    if route.access != MACHINE and len(raw) > BODY_MAX_BYTES:
        raise web.HTTPRequestEntityTooLarge(BODY_MAX_BYTES, len(raw))
    return raw


def _decode(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ApiError(400, "invalid_json", f"cannot read the body: {error.msg} at {place}") from error
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_json", f"cannot read the body: not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "cannot read the body: it nests too deep") from error
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"cannot read the body: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "cannot use the body: it must be a JSON object, at line 1 column 1")
    try:
        # What is kept must be fit to be sent: Python also reads NaN, numbers beyond a float, and halves of characters.
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"cannot use the body: JSON cannot hold what is in it: {error}") from error
    return body


def json_response(
    answer: Any, status: int = 200, headers: dict[str, str] | None = None, reason: str | None = None
) -> web.Response:
    """A JSON answer whose content type carries no charset."""
    body = json.dumps(answer, allow_nan=False).encode()
    return web.Response(body=body, status=status, reason=reason, headers=headers, content_type="application/json")


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Whatever goes wrong, the caller gets JSON: of the unexpected an id, under which the log has the rest."""
    name = f"request {secrets.token_hex(8)}"
    failure = ApiError(500, "internal_error", f"cannot answer: an unexpected error, {name}")
    return await answer_anyway(
        name, _refusals(request, handler), lambda: json_response(wire_error.body(failure), failure.status)
    )


async def _refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except KaaliaError as error:
        retry_after_s = error.extra.get("retry_after_s") if isinstance(error, ApiError) else None
        headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        return json_response(wire_error.body(error), _status(error), headers, _reason(_status(error), error))
    except web.HTTPException as error:
        refusal = _http_refusal(request, error)
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return json_response(wire_error.body(refusal), refusal.status, headers)


def _reason(status: int, error: KaaliaError) -> str:
    """In the status line too: commands of the public client that read no body, such as its self-test, show that."""
    told = "".join(char if " " <= char <= "~" else "?" for char in error.problem.message[:REASON_CHARS])
    return f"{HTTPStatus(status).phrase}: {told}"


def _status(error: KaaliaError) -> int:
    match error:
        case ApiError():
            return error.status
        case ContractError() | WorkloadError():
            return 400
        case MarketplaceError():
            return error.status or 502
        case _:
            return 500


def _http_refusal(request: web.Request, error: web.HTTPException) -> ApiError:
    match error.status:
        case 404:
            return ApiError(404, "no_such_endpoint", f"cannot find {request.method} {request.path[:200]}")
        case 405:
            return ApiError(405, "method_not_allowed", f"cannot {request.method} {request.path[:200]}")
        case 413:
            return ApiError(
                413, "body_too_large", f"cannot read the body: it is too large, at most {BODY_MAX_BYTES} bytes"
            )
        case status:
            return ApiError(status, "http_error", f"cannot answer: {error.reason}")
