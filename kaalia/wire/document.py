"""Documents of wire/protocol.py to JSON text and back: the codec of both sides. Unknown fields are ignored."""

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from kaalia.errors import KaaliaError

T = TypeVar("T")


def encode(document: object) -> str:
    """Compact JSON text of a dataclass."""
    return _adapter(cast("Hashable", type(document))).dump_json(document).decode()


def decode(kind: type[T], text: str | bytes) -> T:
    """Raises KaaliaError `document_invalid`, which names the first field that is wrong."""
    try:
        return cast("T", _adapter(cast("Hashable", kind)).validate_json(text, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise KaaliaError("document_invalid", f"cannot read {kind.__name__}: {place}: {first['msg']}") from error


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", kind))
