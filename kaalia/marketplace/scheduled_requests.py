"""The requests that may be scheduled, and how one is sent: to the handler of its route, as if its renter had asked.

Nothing is done here that a route does not do. What is not on the list cannot be scheduled.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kaalia.marketplace import clouds as cloud_copies
from kaalia.marketplace import logs, renewals, snapshots, terms
from kaalia.marketplace.context import Context
from kaalia.marketplace.routes import clouds, instances, priority
from kaalia.marketplace.routing import Call, Caller, Route
from kaalia.wire.error import ApiError
from kaalia.wire.schedule import Wanted

_Check = Callable[[Mapping[str, Any]], object]


def _nothing(body: Mapping[str, Any]) -> None:
    """Its body says nothing that the handler reads."""


def _bid(body: Mapping[str, Any]) -> None:
    if body.get("price") is not None:
        terms.money("price", body["price"])


_CHECKS: Mapping[tuple[str, str], _Check] = {
    ("PUT", r"/api/v0/instances/reboot/{id:\d+}"): _nothing,
    ("PUT", r"/api/v0/instances/recycle/{id:\d+}"): _nothing,
    ("PUT", r"/api/v0/instances/update_template/{id:\d+}"): renewals.check,
    ("PUT", r"/api/v0/instances/bid_price/{id:\d+}"): _bid,
    ("PUT", r"/api/v0/instances/command/{id:\d+}"): lambda body: logs.check_command(body.get("command")),
    ("POST", r"/api/v0/instances/take_snapshot/{id:\d+}"): snapshots.check,
    ("POST", "/api/v0/commands/rclone"): cloud_copies.wanted,
}
"""What of a body can be judged beforehand; the rest is judged by each run."""
_ROUTES = {(route.method, route.path): route for route in (*instances.ROUTES, *priority.ROUTES, *clouds.ROUTES)}
_BIDS = r"/api/v0/instances/bid_price/{id:\d+}"
_ID = r"{id:\d+}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes. `endpoint`: its path as it is kept, `path`: the named parts of it."""

    route: Route
    endpoint: str
    path: Mapping[str, str]

    @property
    def is_bid(self) -> bool:
        """Of two at the same times only one can hold."""
        return self.route.path == _BIDS


def find(method: str, endpoint: str) -> Target:
    """Raises ApiError 400 `schedule_refused` when it is not on the list."""
    for key in _CHECKS:
        match = re.fullmatch(_pattern(key[1]), endpoint, re.ASCII)
        if match and method == key[0]:
            return Target(_ROUTES[key], endpoint.rstrip("/") + "/", match.groupdict())
    known = ", ".join(f"{one} {path.replace(_ID, 'ID')}/" for one, path in _CHECKS)
    message = f"cannot schedule request_method={method[:10]!r} api_endpoint={endpoint[:120]!r}: it is none that may be"
    raise ApiError(400, "schedule_refused", message, remedy=f"Use one of {known}")


def check(wanted: Wanted) -> Target:
    """That it may be scheduled at all, and concerns one instance. Raises ApiError, ContractError."""
    target = find(wanted.method, wanted.endpoint)
    named = {"api_endpoint": target.path.get("id"), "request_body.instance_id": wanted.body.get("instance_id")}
    for name, value in named.items():
        if value is not None and str(value) != str(wanted.instance_id):
            message = f"cannot schedule: {name} is of instance {str(value)[:20]}, instance_id={wanted.instance_id}"
            raise ApiError(400, "schedule_invalid", message, remedy="Name one instance")
    if not any(named.values()):
        message = "cannot schedule: request_body.instance_id is missing"
        raise ApiError(400, "schedule_invalid", message, remedy="Name the instance there too")
    _CHECKS[target.route.method, target.route.path](wanted.body)
    return target


async def send(context: Context, caller: Caller, wanted: Wanted) -> Any:
    """The handler's answer, or what it raises."""
    target = find(wanted.method, wanted.endpoint)
    return await target.route.handler(Call(None, context, wanted.body, caller, target.path))


def _pattern(path: str) -> str:
    return re.escape(path).replace(re.escape(_ID), "(?P<id>[0-9]{1,18})") + "/?"
