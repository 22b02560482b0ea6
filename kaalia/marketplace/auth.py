"""Who is calling, and may they: bearer keys, permission categories, and an instance's own key.

Keys are random and stored as SHA-256 only. Nothing here logs or returns a key that was sent.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace.context import Context
from kaalia.marketplace.db.tables import api_keys, users
from kaalia.marketplace.routing import Caller, Route
from kaalia.wire.error import ApiError

CATEGORIES = frozenset(
    f"{area}_{mode}" for area in ("instance", "user", "billing", "machine", "team") for mode in ("read", "write")
) | {"misc"}

_INSTANCE_KEY_ROUTES = frozenset(
    {
        ("GET", "instances/*"),
        ("PUT", "instances/*"),
        ("DELETE", "instances/*"),
        ("PUT", "instances/request_logs/*"),
    }
)
"""What an instance's own key opens, of its own id: show; start, stop and label; destroy; logs."""

_ACTIONS = {"GET": "show", "POST": "create", "PUT": "update", "DELETE": "delete"}
_PLACEHOLDER = re.compile(r"\{[^}]+\}")
_VERSION = re.compile(r"^/api/v\d+/")


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was found: whose it is and what it opens. `permissions` None opens everything."""

    caller: Caller
    permissions: Mapping[str, Any] | None


def new_key() -> str:
    """A fresh key: 32 random bytes, fit for a header and a URL."""
    return secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is stored of a key or a one-time token."""
    return hashlib.sha256(key.encode()).hexdigest()


async def identify(context: Context, request: web.Request) -> Key:
    """Find the key of `Authorization: Bearer` or `?api_key=`. Raises ApiError 401 `auth_error`."""
    sent = _sent_key(request)
    if not sent:
        raise ApiError(
            401, "auth_error", "cannot identify the caller: no API key was sent", remedy="Run `vastai set api-key KEY`"
        )
    async with context.engine.begin() as tx:
        key = await _find(tx, api_keys.c.key_sha256 == digest(sent))
    if key is None:
        # The public client recognises exactly this sentence and drops a stale two-factor key because of it.
        raise ApiError(401, "auth_error", "Invalid user key")
    return key


async def of_id(tx: AsyncConnection, key_id: int) -> Key | None:
    """The key as it is now; None: it was deleted."""
    return await _find(tx, api_keys.c.id == key_id)


async def _find(tx: AsyncConnection, which: sa.ColumnElement[bool]) -> Key | None:
    query = (
        sa.select(api_keys.c.id, api_keys.c.permissions, api_keys.c.instance_id, users.c.id, users.c.is_host)
        .join(users, users.c.id == api_keys.c.user_id)
        .where(which)
    )
    row = (await tx.execute(query)).one_or_none()
    if row is None:
        return None
    key_id, permissions, instance_id, user_id, is_host = row
    caller = Caller(user_id=user_id, is_host=is_host, key_id=key_id, instance_id=instance_id)
    return Key(caller, None if permissions is None else json.loads(permissions))


def authorise(key: Key, route: Route, parameters: Mapping[str, Any]) -> None:
    """Refuse a route that the key does not open: ApiError 403 `not_authorized` that names the category.

    `parameters`: query, body and path values by name; `id` is the first number of the path, else all of the request.
    """
    if key.caller.instance_id is not None:
        _authorise_instance_key(key.caller.instance_id, route, parameters)
        return
    if key.permissions is None:
        return
    opened = key.permissions.get("api", {}).get(route.access)
    if opened is None:
        raise _refusal(f"this API key lacks the category {route.access}", f"add {route.access} to its permissions")
    if opened and not _endpoint_open(opened, endpoint_name(route), parameters):
        raise _refusal(
            f"its constraints under {route.access} do not open {endpoint_name(route)} with these values",
            f"widen its constraints under {route.access}",
        )


def parameters(query: Mapping[str, Any], body: Mapping[str, Any], path: Mapping[str, str]) -> dict[str, Any]:
    """What the constraints of a key look at."""
    numbers = [value for value in path.values() if value.isdecimal()]
    named = {**query, **body, **path}
    ids = numbers[:1] or [each for source in (query, body) for each in _ids(source)]
    return {**named, "id": ids[0] if len(ids) == 1 else ids} if ids else named


def _ids(source: Mapping[str, Any]) -> Iterator[Any]:
    """Everything that a handler may take for an id: of a request for many, a key must open each."""
    if "id" in source:
        yield source["id"]
    for name in ("ids", "instance_ids"):
        values = source.get(name)
        yield from values if isinstance(values, list) else ()


def endpoint_name(route: Route) -> str:
    """The name that per-endpoint constraints use: `PUT .../instances/request_logs/{id}` is `api.instance.request_logs`.

    Without a word after the resource the method gives it: show, create, update, delete.
    """
    resource, *words = [part for part in _template(route).split("/") if part != "*"]
    return ".".join(["api", resource.removesuffix("s"), *(words or [_ACTIONS[route.method]])])


def _authorise_instance_key(instance_id: int, route: Route, parameters: Mapping[str, Any]) -> None:
    if (route.method, _template(route)) not in _INSTANCE_KEY_ROUTES:
        raise _refusal(
            f"the key of instance {instance_id} lacks {route.access}", "use an API key of the account for this request"
        )
    if str(parameters.get("id")) != str(instance_id):
        raise _refusal(
            f"the key of instance {instance_id} reaches that instance only ({route.access})",
            "use an API key of the account for other instances",
        )


def _template(route: Route) -> str:
    return _PLACEHOLDER.sub("*", _VERSION.sub("", route.path))


def _endpoint_open(opened: Mapping[str, Any], name: str, parameters: Mapping[str, Any]) -> bool:
    entry = opened.get(name)
    if entry is None:
        return False
    constraints = entry.get("constraints") or {}
    return all(_satisfied(parameters.get(field), rule) for field, rule in constraints.items())


def _satisfied(value: Any, rule: Mapping[str, Any]) -> bool:
    """Of a list, each item must satisfy the rule."""
    if isinstance(value, list):
        return bool(value) and all(_satisfied(item, rule) for item in value)
    for operator, wanted in rule.items():
        if operator == "eq":
            if str(value) != str(wanted):
                return False
            continue
        try:
            left, right = float(value), float(wanted)
        except (TypeError, ValueError):
            return False
        if not (left <= right if operator == "lte" else left >= right):
            return False
    return True


def _sent_key(request: web.Request) -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return request.query.get("api_key", "")


def _refusal(cause: str, remedy: str) -> ApiError:
    return ApiError(403, "not_authorized", f"cannot do this: {cause}", remedy=remedy.capitalize())
