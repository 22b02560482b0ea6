"""Templates on the wire. Rows give `extra_filters` as a JSON string, as the public service does; input may be either.

Registry user and password are never part of a template: templates are shared by their hash.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic_core import from_json


def _object(value: object) -> object:
    """`extra_filters` may come as JSON text; blank text is no filter."""
    if isinstance(value, str):
        return from_json(value, allow_inf_nan=False) if value.strip() else {}
    return value


def _number(value: object) -> object:
    """The client sends `"8.0"`; blank text is not given."""
    return value or None if isinstance(value, str) else value


Filters = Annotated[dict[str, Any], BeforeValidator(_object)]
Gigabytes = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1_000_000)]


class TemplateFields(BaseModel):
    """What a template holds, every field optional: null means not given. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(max_length=255)] | None = None
    image: Annotated[str, Field(max_length=512)] | None = None
    tag: Annotated[str, Field(max_length=128)] | None = None
    href: str | None = None
    repo: str | None = None
    env: str | dict[str, Any] | None = None
    onstart: str | None = None
    args_str: str | None = None
    runtype: str | None = None
    use_ssh: StrictBool | None = None
    ssh_direct: StrictBool | None = None
    jup_direct: StrictBool | None = None
    use_jupyter_lab: StrictBool | None = None
    jupyter_dir: str | None = None
    docker_login_repo: str | None = None
    extra_filters: Filters | None = None
    recommended_disk_space: Gigabytes | None = None
    volume_info: Any = None
    """A hint for pages only; a rental names its own volumes."""
    readme: Annotated[str, Field(max_length=200_000)] | None = None
    readme_visible: StrictBool | None = None
    desc: str | None = None
    private: StrictBool | None = None


FIELDS = tuple(TemplateFields.model_fields)


def decode(body: Mapping[str, Any]) -> dict[str, Any]:
    """The template fields of a request body. Raises pydantic.ValidationError that names the field."""
    return TemplateFields.model_validate(dict(body)).model_dump()


def encode(
    document: Mapping[str, Any],
    *,
    template_id: int,
    hash_id: str,
    creator_id: int,
    created_at: datetime,
    count_created: int,
    recent_create_at: datetime | None,
) -> dict[str, Any]:
    """One row of `search templates`; times in epoch seconds."""
    return {
        **{field: document.get(field) for field in FIELDS},
        "extra_filters": json.dumps(document.get("extra_filters") or {}),
        "id": template_id,
        "hash_id": hash_id,
        "creator_id": creator_id,
        "created_at": created_at.timestamp(),
        "count_created": count_created,
        "recent_create_date": None if recent_create_at is None else recent_create_at.timestamp(),
        "default_tag": document.get("tag") or "latest",
        "recommended": False,
    }
