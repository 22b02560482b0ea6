"""Documents of wire/protocol.py to JSON text and back: the codec of both sides. Unknown fields are ignored."""

import math
from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from kaalia.errors import KaaliaError, Problem

T = TypeVar("T")

_INTEGER_MAX = 2**63 - 1
"""What databases hold, and what a float can stand for without an error."""


def encode(document: object) -> str:
    """Compact JSON text of a dataclass."""
    return adapter(cast("type[Any]", type(document))).dump_json(document).decode()


def decode(kind: type[T], text: str | bytes) -> T:
    """Raises KaaliaError `document_invalid`, which names the first field that is wrong.

    Refuses too what the types allow and nobody can reckon with: times without a zone, NaN, infinity, endless numbers.
    """
    try:
        found = adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise KaaliaError("document_invalid", f"cannot read {kind.__name__}: {place}: {first['msg']}") from error
    for place, why in _faults(found, ""):
        raise KaaliaError("document_invalid", f"cannot read {kind.__name__}: {place}: {why}")
    return found


def _faults(value: object, place: str) -> Iterator[tuple[str, str]]:
    match value:
        case datetime() if value.tzinfo is None:
            yield place, "a time must name its zone"
        case float() | Decimal() if not math.isfinite(value):
            yield place, "a number must be finite"
        case int() if abs(value) > _INTEGER_MAX:
            yield place, f"a number must be at most {_INTEGER_MAX}"
        case tuple() | list():
            for at, item in enumerate(value):
                yield from _faults(item, f"{place}.{at}".lstrip("."))
        case dict():
            for key, item in value.items():
                yield from _faults(item, f"{place}.{key}".lstrip("."))
        case _ if is_dataclass(value):
            for field in fields(value):
                yield from _faults(getattr(value, field.name), f"{place}.{field.name}".lstrip("."))


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """The one for this kind in the process: a large kind takes a tenth of a megabyte."""
    return cast("TypeAdapter[T]", _made(cast("Hashable", kind)))


@cache
def _made(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("type[Any]", kind))


# When a process makes its first adapter, pydantic looks for plugins on disk and imports the rest of itself: now, not in
# somebody's event loop.
adapter(Problem)
