"""Values out of queries and bodies: JSON or plain, checked for their type; a wrong one is a 400 that names it."""

import json
from typing import Any, TypeVar

from kaalia.marketplace.routing import Call
from kaalia.wire.error import ApiError

T = TypeVar("T")

MAX_IDS = 64
"""The client cuts longer lists into chunks of this size."""
INTEGER_MAX = 2**63 - 1
"""What the database's integers hold."""


def json_value(call: Call, name: str, kind: type[T], default: T) -> T:
    """A query value that the client sends as JSON text; absent, blank or null is the default."""
    text = call.request.query.get(name, "")
    try:
        value = json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        raise _wrong(name, text, "JSON") from None
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(name, text, f"a JSON {kind.__name__}")
    return value


def whole_number(name: str, value: Any) -> int:
    """An id as int, float or text."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise _wrong(name, value, "a whole number")
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise _wrong(name, value, "a whole number") from None
    if not 0 <= number <= INTEGER_MAX:
        raise _wrong(name, value, f"a whole number of at most {INTEGER_MAX}")
    return number


def id_list(body: dict[str, Any], name: str) -> list[int]:
    """A list of ids in a body, at most MAX_IDS."""
    values = body.get(name)
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_IDS:
        raise _wrong(name, values, f"a list of 1 to {MAX_IDS} ids")
    return [whole_number(name, value) for value in values]


def _wrong(name: str, value: Any, expected: str) -> ApiError:
    return ApiError(
        400, "invalid_args", f"cannot read {name}={str(value)[:80]!r}: it must be {expected}", remedy=f"Correct {name}"
    )
