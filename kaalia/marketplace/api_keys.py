"""API keys of an account: make, show, delete, renew. A key is shown once, when it is made.

A restricted key makes only keys that open no more than itself.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace import auth
from kaalia.marketplace.db.tables import api_keys
from kaalia.marketplace.routing import Caller
from kaalia.wire.error import ApiError

KEYS_MAX = 100
"""Per account, instances' own keys aside."""
NAME_MAX_CHARS = 256


async def create(tx: AsyncConnection, caller: Caller, name: str, permissions: Any, now: datetime) -> dict[str, Any]:
    """A new key with its text. `permissions` None: all that the caller's own key opens.

    Raises ApiError 400 `invalid_args`, `max_api_keys`, 403 `not_authorized`.
    """
    own = await _permissions(tx, caller.key_id)
    wanted = own if permissions is None else check_permissions(permissions)
    _check_not_wider(own, wanted)
    if len(await of_user(tx, caller.user_id)) >= KEYS_MAX:
        message = f"cannot create an API key: the account has {KEYS_MAX} already"
        raise ApiError(400, "max_api_keys", message, remedy="Delete one with `vastai delete api-key ID`")
    key = auth.new_key()
    made = await tx.execute(
        sa.insert(api_keys)
        .values(
            user_id=caller.user_id,
            name=name[:NAME_MAX_CHARS],
            key_sha256=auth.digest(key),
            permissions=None if wanted is None else json.dumps(wanted),
            created_at=now.timestamp(),
        )
        .returning(*api_keys.c)
    )
    return {**_row(made.one()), "key": key}


async def of_user(tx: AsyncConnection, user_id: int) -> list[dict[str, Any]]:
    """The keys of an account without their texts, oldest first; instances' own keys are not among them."""
    return [_row(row) for row in await tx.execute(sa.select(api_keys).where(_own(user_id)).order_by(api_keys.c.id))]


async def get(tx: AsyncConnection, user_id: int, key_id: int) -> dict[str, Any]:
    """Raises ApiError 404 `no_such_api_key`."""
    row = (await tx.execute(sa.select(api_keys).where(_own(user_id), api_keys.c.id == key_id))).one_or_none()
    if row is None:
        raise _unknown(key_id)
    return _row(row)


async def delete(tx: AsyncConnection, user_id: int, key_id: int) -> None:
    """Raises ApiError 404 `no_such_api_key`."""
    deleted = await tx.execute(sa.delete(api_keys).where(_own(user_id), api_keys.c.id == key_id))
    if not deleted.rowcount:
        raise _unknown(key_id)


async def renew(tx: AsyncConnection, key_id: int) -> str:
    """A new text for the caller's key; the old one is void from now on."""
    key = auth.new_key()
    await tx.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(key_sha256=auth.digest(key)))
    return key


def check_permissions(permissions: Any) -> dict[str, Any]:
    """`{"api": {category: {endpoint: {"constraints": {field: {"eq"|"lte"|"gte": value}}}}}}`, or ApiError 400."""
    categories = permissions.get("api") if isinstance(permissions, dict) else None
    if not isinstance(categories, dict):
        raise _invalid("permissions", "it has no object `api`")
    for category, endpoints in categories.items():
        if category not in auth.CATEGORIES:
            raise _invalid(f"permissions.api.{category}", f"the categories are {', '.join(sorted(auth.CATEGORIES))}")
        if not isinstance(endpoints, dict):
            raise _invalid(f"permissions.api.{category}", "it must be an object")
        for endpoint, entry in endpoints.items():
            _check_constraints(f"permissions.api.{category}.{endpoint}", entry)
    return {"api": categories}


def _check_constraints(place: str, entry: Any) -> None:
    constraints = entry.get("constraints", {}) if isinstance(entry, dict) else None
    if not isinstance(constraints, dict) or set(entry) - {"constraints"}:
        raise _invalid(place, 'it must look like {"constraints": {"id": {"eq": 1}}}')
    for field, rule in constraints.items():
        if not isinstance(rule, dict) or not rule or set(rule) - {"eq", "lte", "gte"}:
            raise _invalid(f"{place}.constraints.{field}", "it must be an object of eq, lte and gte")


def _check_not_wider(own: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> None:
    if own is None or wanted is None:
        return
    for category, endpoints in wanted["api"].items():
        mine = own["api"].get(category)
        if mine is None or (mine and mine != endpoints):
            raise ApiError(
                403,
                "not_authorized",
                f"cannot create this API key: the key that asks opens less of {category} than it",
                remedy="Ask with a key that opens as much",
            )


async def _permissions(tx: AsyncConnection, key_id: int) -> dict[str, Any] | None:
    text = await tx.scalar(sa.select(api_keys.c.permissions).where(api_keys.c.id == key_id))
    return None if text is None else dict(json.loads(text))


def _own(user_id: int) -> sa.ColumnElement[bool]:
    return sa.and_(api_keys.c.user_id == user_id, api_keys.c.instance_id.is_(None))


def _row(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "permissions": None if row.permissions is None else json.loads(row.permissions),
        "created_at": row.created_at,
    }


def _unknown(key_id: int) -> ApiError:
    return ApiError(
        404,
        "no_such_api_key",
        f"cannot find API key {key_id}: the account has no such key",
        remedy="`vastai show api-keys` lists them",
    )


def _invalid(field: str, cause: str) -> ApiError:
    return ApiError(400, "invalid_args", f"cannot use {field}: {cause}", remedy=f"Correct {field}")
