"""One envelope: `{"data": ...}` for an answer, `{"error": {code, message, remedy, evidence}}` for a refusal."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic_core import to_json

from kaalia.errors import ConfigError, ContractError, KaaliaError, Problem, StoreError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class NotFoundError(KaaliaError):
    """There is no such thing on this machine."""


_STATUS: tuple[tuple[type[KaaliaError], int], ...] = (
    (NotFoundError, 404),
    (ConfigError, 400),
    (ContractError, 409),
    (StoreError, 503),
)


def answer(data: Any) -> web.Response:
    """Any of our dataclasses, or tuples of them, as JSON: times in ISO 8601, money as text."""
    return web.Response(body=to_json({"data": data}), content_type="application/json")


def refusal(status: int, problem: Problem) -> web.Response:
    return web.Response(status=status, body=to_json({"error": problem}), content_type="application/json")


@web.middleware
async def map_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place that turns errors into answers."""
    try:
        return await handler(request)
    except KaaliaError as error:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return refusal(status, error.problem)
    except web.HTTPNotFound:
        problem = Problem("no_such_path", f"cannot serve {request.path}: there is no such path", "see GET /v1")
        return refusal(404, problem)
    except web.HTTPMethodNotAllowed:
        problem = Problem("read_only", f"cannot {request.method} {request.path}: the local API only reads", "use GET")
        return refusal(405, problem)
