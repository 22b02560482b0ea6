"""Templates: saved create requests. The id stays, the hash names the content and changes with each edit.

An old hash goes on to resolve to the content it named, also after an edit or a deletion; whoever knows a hash may
rent from it. Searching shows the caller's own templates and the public ones.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import dockerflags, query
from kaalia.contracts import template as rules
from kaalia.marketplace.db.tables import template_hashes, templates
from kaalia.wire import template as wire
from kaalia.wire.error import ApiError

ONSTART_MAX_CHARS = 4048
"""The public service's limit, for templates and rentals alike."""
_DEFAULTS = {"private": True, "readme_visible": True, "extra_filters": {}}


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """What a hash or an id resolves to: the content as it was under that hash."""

    template_id: int
    hash_id: str
    document: dict[str, Any]


async def create(tx: AsyncConnection, user_id: int, body: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Store a template and return its row; identical content of the same creator is the same template."""
    given = _decode(body)
    document = {**given, **{key: value for key, value in _DEFAULTS.items() if given[key] is None}}
    if not document["image"]:
        raise _invalid("cannot create a template: image is missing", "give the image, such as ubuntu")
    hash_id = rules.content_hash(document)
    own = sa.select(templates.c.id).where(
        templates.c.creator_id == user_id, templates.c.hash_id == hash_id, templates.c.deleted_at.is_(None)
    )
    template_id = await tx.scalar(own)
    if template_id is None:
        template_id = await tx.scalar(
            sa.insert(templates)
            .values(hash_id=hash_id, creator_id=user_id, document=json.dumps(document), created_at=now.timestamp())
            .returning(templates.c.id)
        )
        await _remember(tx, hash_id, template_id, document)
    return await _row(tx, template_id)


async def search(tx: AsyncConnection, user_id: int, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that the caller may see and that satisfy the filters, oldest first."""
    query.check(filters)
    found = await tx.execute(sa.select(templates).where(templates.c.deleted_at.is_(None)).order_by(templates.c.id))
    rows = (_encode(row) for row in found)
    return [row for row in rows if _visible(row, user_id) and query.matches(row, filters)]


async def update(
    tx: AsyncConnection, user_id: int, template_id: int | None, hash_id: str | None, body: Mapping[str, Any]
) -> dict[str, Any]:
    """Change what `body` gives (null keeps); returns the row with its new hash. Only the creator may."""
    found = await _own(tx, user_id, template_id, hash_id)
    changes = _decode({key: value for key, value in body.items() if value is not None})
    document = rules.edit(json.loads(found.document), changes)
    new_hash = document.pop("hash_id")
    await tx.execute(
        sa.update(templates).where(templates.c.id == found.id).values(hash_id=new_hash, document=json.dumps(document))
    )
    await _remember(tx, new_hash, found.id, document)
    return await _row(tx, found.id)


async def delete(tx: AsyncConnection, user_id: int, template_id: int | None, hash_id: str | None, now: datetime) -> int:
    """Take a template out of its creator's list; its hashes go on to resolve. Returns the id."""
    found = await _own(tx, user_id, template_id, hash_id)
    await tx.execute(sa.update(templates).where(templates.c.id == found.id).values(deleted_at=now.timestamp()))
    return int(found.id)


async def resolve(
    tx: AsyncConnection, user_id: int, template_id: int | None, hash_id: str | None
) -> NamedTemplate | None:
    """The template a rental names, None when it names none. Raises ApiError 400 `invalid_args` when it is unknown."""
    if hash_id:
        return await _by_hash(tx, user_id, hash_id)
    if template_id is None:
        return None
    row = (await tx.execute(sa.select(templates).where(templates.c.id == template_id))).one_or_none()
    if row is None or not _visible(_encode(row), user_id):
        raise _invalid(f"cannot use template {template_id}: no such template", "`vastai search templates` lists them")
    return NamedTemplate(row.id, row.hash_id, json.loads(row.document))


async def count_rental(tx: AsyncConnection, template_id: int, now: datetime) -> None:
    """An instance was made from this template."""
    await tx.execute(
        sa.update(templates)
        .where(templates.c.id == template_id)
        .values(count_created=templates.c.count_created + 1, recent_create_date=now.timestamp())
    )


async def names(tx: AsyncConnection, template_ids: set[int]) -> dict[int, str | None]:
    """Names by id, for instance rows; deleted templates included."""
    if not template_ids:
        return {}
    rows = await tx.execute(sa.select(templates.c.id, templates.c.document).where(templates.c.id.in_(template_ids)))
    return {row.id: json.loads(row.document).get("name") for row in rows}


async def _by_hash(tx: AsyncConnection, user_id: int, hash_id: str) -> NamedTemplate:
    # Several users may hold the same content: the caller's own template is the one that is counted.
    current = sa.select(templates).where(templates.c.hash_id == hash_id)
    rows = sorted(await tx.execute(current), key=lambda row: (row.creator_id != user_id, row.id))
    if rows:
        return NamedTemplate(rows[0].id, hash_id, json.loads(rows[0].document))
    old = (await tx.execute(sa.select(template_hashes).where(template_hashes.c.hash_id == hash_id))).one_or_none()
    if old is None:
        remedy = "`vastai search templates` shows each hash_id; the numeric id goes into template_id"
        raise _invalid(f"cannot use template {hash_id[:64]!r}: no template has this hash", remedy)
    return NamedTemplate(old.template_id, hash_id, json.loads(old.document))


async def _own(tx: AsyncConnection, user_id: int, template_id: int | None, hash_id: str | None) -> sa.Row[Any]:
    """The caller's template, by id or by any hash it ever had. Raises ApiError 404 `no_such_template`."""
    mine = sa.select(templates).where(templates.c.creator_id == user_id, templates.c.deleted_at.is_(None))
    if template_id is not None:
        wanted = mine.where(templates.c.id == template_id)
    else:
        earlier = sa.select(template_hashes.c.template_id).where(template_hashes.c.hash_id == hash_id)
        wanted = mine.where((templates.c.hash_id == hash_id) | templates.c.id.in_(earlier))
    found = (await tx.execute(wanted.order_by(templates.c.hash_id != hash_id, templates.c.id))).first()
    if found is None:
        name = hash_id if template_id is None else template_id
        remedy = "`vastai search templates 'private=true'` lists yours; template_id takes the number, hash_id the hash"
        raise ApiError(404, "no_such_template", f"cannot find a template {name!r} of yours", remedy=remedy)
    return found


async def _remember(tx: AsyncConnection, hash_id: str, template_id: int, document: Mapping[str, Any]) -> None:
    known = await tx.scalar(sa.select(template_hashes.c.hash_id).where(template_hashes.c.hash_id == hash_id))
    if known is None:
        values = {"hash_id": hash_id, "template_id": template_id, "document": json.dumps(document)}
        await tx.execute(sa.insert(template_hashes).values(**values))


async def _row(tx: AsyncConnection, template_id: int) -> dict[str, Any]:
    return _encode((await tx.execute(sa.select(templates).where(templates.c.id == template_id))).one())


def _encode(row: sa.Row[Any]) -> dict[str, Any]:
    return wire.encode(
        json.loads(row.document),
        template_id=row.id,
        hash_id=row.hash_id,
        creator_id=row.creator_id,
        created_at=from_epoch(row.created_at),
        count_created=row.count_created,
        recent_create_at=None if row.recent_create_date is None else from_epoch(row.recent_create_date),
    )


def _visible(row: Mapping[str, Any], user_id: int) -> bool:
    return row["creator_id"] == user_id or row["private"] is False


def _decode(body: Mapping[str, Any]) -> dict[str, Any]:
    if body.get("docker_login_pass"):
        remedy = "Leave it out, and send image_login with each rental"
        raise _invalid("cannot keep docker_login_pass in a template: its hash gives it to others", remedy)
    try:
        document = wire.decode(body)
    except ValidationError as error:
        raise invalid_fields("cannot read the template", error) from error
    if len(document["onstart"] or "") > ONSTART_MAX_CHARS:
        raise onstart_too_long(document["onstart"])
    dockerflags.parse(document["env"])
    if document["extra_filters"] is not None:
        query.check(document["extra_filters"])
    return document


def invalid_fields(what: str, error: ValidationError, **extra: Any) -> ApiError:
    """400 `invalid_args` that names the first wrong field and its value."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "body"
    return ApiError(
        400,
        "invalid_args",
        f"{what}: {field}={str(first['input'])[:80]!r}: {first['msg']}",
        remedy=f"Correct {field} and send the request again",
        **extra,
    )


def onstart_too_long(onstart: str, **extra: Any) -> ApiError:
    """400 `invalid_args` with the way to send a longer script."""
    return ApiError(
        400,
        "invalid_args",
        f"cannot use onstart: it has {len(onstart)} characters, more than {ONSTART_MAX_CHARS}",
        remedy="Pack it with `gzip -c script | base64 -w0`, and send `echo <that> | base64 -d | gunzip | bash`",
        **extra,
    )


def _invalid(message: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", message, remedy=remedy)
