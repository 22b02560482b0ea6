"""How a route is written: one line of a table. Handlers decode, call one function, and return what JSON can hold."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from kaalia.marketplace.context import Context
from kaalia.prober import bounds
from kaalia.prober.bounds import Origin


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `instance_id` is set for an instance's own key, which reaches that instance only."""

    user_id: int
    is_host: bool
    key_id: int
    instance_id: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One decoded request. `body` is the JSON object, {} when there was none; `path`: the named parts of the path.

    `sent`: as it came; None: the marketplace makes it by itself, because a renter scheduled it.
    """

    sent: web.Request | None
    context: Context
    body: dict[str, Any]
    signed_in: Caller | None
    path: Mapping[str, str]

    @property
    def request(self) -> web.Request:
        """Of a route that cannot be scheduled."""
        if self.sent is None:
            raise RuntimeError("a scheduled request has no connection, query or headers")
        return self.sent

    @property
    def caller(self) -> Caller:
        """The caller of a route that is not public."""
        if self.signed_in is None:
            raise RuntimeError("a public route asked who is calling")
        return self.signed_in

    @property
    def is_heard(self) -> bool:
        """The caller is still there to read an answer."""
        return self.request.transport is not None and not self.request.transport.is_closing()

    @property
    def origin(self) -> Origin | None:
        """Where the request comes from, by the word of our own proxy if there is one; None: it does not tell."""
        return origin_of(self.request, self.context)

    def number(self, name: str) -> int:
        """An integer of the path; the route's pattern has checked that it is one."""
        return int(self.path[name])


def address_of(request: web.Request, context: Context) -> str | None:
    known = origin_of(request, context)
    return request.remote if known is None else known.address


def origin_of(request: web.Request, context: Context) -> Origin | None:
    """Like `Call.origin`."""
    return bounds.origin(request, context.settings.trusted_proxies)


PUBLIC = "public"
"""No key is asked for."""
MACHINE = "machine"
"""Signed by a machine's key; the handler verifies."""


@dataclass(frozen=True, slots=True)
class Route:
    """`access`: PUBLIC, MACHINE, or the permission category that a key needs (facts: instance_read, misc ...).

    `path` has no trailing slash and integers as {name:\\d+}; it is served with and without the slash.
    """

    method: str
    path: str
    access: str
    handler: Callable[[Call], Awaitable[Any]]
