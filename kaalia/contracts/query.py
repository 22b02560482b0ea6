"""The filter language of the search: `{"field": {"op": value}}`, all of them ANDed, and the order of results.

Clients send numbers as text, booleans as text and names with `_` for blanks, so a value is read as the row's own type.
A field that the row does not have is ignored, as the client only warns about those; an operator that does not exist
is refused. An unknown (None) cell never satisfies an ordering and stands last in any order.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from kaalia.errors import ContractError

CONTROL_KEYS = frozenset({"order", "type", "limit", "allocated_storage"})
"""Keys that stand beside the filters in the body of an offer search; ignored here unless they hold a filter."""

_ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_MEMBERSHIPS = {"in": True, "notin": False, "nin": False, "not in": False}
OPERATORS = ("eq", "neq", *_ORDERINGS, *_MEMBERSHIPS)

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})
_VERSION = re.compile(r"\d+(?:\.\d+)*", re.ASCII)

RowT = TypeVar("RowT", bound=Mapping[str, Any])


def check(filters: Mapping[str, Any]) -> None:
    """Raise ContractError filter_invalid, naming field and operator, unless `matches` can read every filter."""
    for field, conditions in _filters(filters):
        if not isinstance(conditions, Mapping):
            remedy = f'write {{"{field}": {{"eq": value}}}}'
            raise ContractError("filter_invalid", f"cannot filter by {field!r}: no operator is given", remedy=remedy)
        for op, value in conditions.items():
            _check_condition(field, op, value)


def matches(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Whether the row satisfies every filter. Raises ContractError filter_invalid."""
    check(filters)
    return all(
        _holds(row, field, op, value)
        for field, conditions in _filters(filters)
        if field in row
        for op, value in conditions.items()
    )


def sort(rows: Iterable[RowT], order: Sequence[Sequence[str]]) -> list[RowT]:
    """Rows by `[[field, "asc"|"desc"], ...]`, stable, unknown cells last. Raises ContractError filter_invalid."""
    result = list(rows)
    for field, descending in reversed([_order_term(term) for term in order]):
        keyed = [(_sort_key(row.get(field)), row) for row in result]
        known = [pair for pair in keyed if pair[0] is not None]
        known.sort(key=operator.itemgetter(0), reverse=descending)
        result = [row for _, row in known] + [row for key, row in keyed if key is None]
    return result


def driver_number(version: str) -> int | None:
    """`"535.86.05"` as the client sends it, 535086005: three groups of three digits. None: that is no version."""
    groups = version.split(".")
    if len(groups) > 3 or not all(group.isascii() and group.isdigit() and len(group) <= 3 for group in groups):
        return None
    return int("".join(group.zfill(3) for group in [*groups, "0", "0"][:3]))


def _filters(filters: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return (
        (field, conditions)
        for field, conditions in filters.items()
        if field not in CONTROL_KEYS or isinstance(conditions, Mapping)
    )


def _check_condition(field: str, op: object, value: object) -> None:
    if op not in OPERATORS:
        message = f"cannot filter by {field!r}: there is no operator {op!r}"
        raise ContractError("filter_invalid", message, remedy=f"use one of {', '.join(OPERATORS)}")
    if op in _MEMBERSHIPS and not isinstance(value, list | tuple):
        message = f"cannot filter by {field!r}: {op!r} needs a list, not {value!r}"
        raise ContractError("filter_invalid", message, remedy=f'write {{"{field}": {{"{op}": [value, value]}}}}')
    if op in _ORDERINGS and (value is None or isinstance(value, list | tuple | Mapping)):
        message = f"cannot filter by {field!r}: {op!r} needs a number or text, not {value!r}"
        raise ContractError("filter_invalid", message, remedy=f'write {{"{field}": {{"{op}": 1}}}}')


def _holds(row: Mapping[str, Any], field: str, op: str, value: Any) -> bool:
    cell = row[field]
    if field == "driver_version":
        cell, value = _drivers(row, value)
    if op == "eq":
        return (isinstance(value, str) and value.lower() == "any") or _equal(field, cell, value)
    if op == "neq":
        return not _equal(field, cell, value)
    if op in _MEMBERSHIPS:
        return any(_equal(field, cell, item) for item in value) is _MEMBERSHIPS[op]
    pair = _comparable(cell, value)
    return pair is not None and _ORDERINGS[op](*pair)


def _drivers(row: Mapping[str, Any], value: Any) -> tuple[Any, Any]:
    """Driver versions are compared as numbers; text that is no version stays text."""
    number = row.get("driver_vers")
    if number is None and isinstance(row["driver_version"], str):
        number = driver_number(row["driver_version"])
    return (row["driver_version"], value) if number is None else (number, _driver_value(value))


def _driver_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_driver_value(item) for item in value]
    text = str(value)
    number = driver_number(text) if "." in text or len(text) <= 3 else None
    return value if number is None else number


def _equal(field: str, cell: Any, value: Any) -> bool:
    if cell is None or value is None:
        return cell is value
    if field == "geolocation" and isinstance(cell, str) and "," in cell:
        country = cell.rpartition(",")[2]
        return _words(value) in (_words(cell), _words(country))
    if isinstance(cell, str):
        return _words(cell) == _words(value)
    pair = _comparable(cell, value)
    return pair is not None and bool(pair[0] == pair[1])


def _comparable(cell: Any, value: Any) -> tuple[Any, Any] | None:
    """Cell and value as one type, the cell's; None when the value cannot be read as that, or the cell is unknown."""
    if cell is None:
        return None
    if isinstance(cell, str):
        return _text_pair(cell, value)
    if isinstance(cell, bool):
        flag = _boolean(value)
        return None if flag is None else (cell, flag)
    if isinstance(cell, int | float | Decimal):
        left, right = _number(cell), _number(value)
        return None if left is None or right is None else (left, right)
    return (cell, value) if type(cell) is type(value) and isinstance(cell, list | tuple) else None


def _text_pair(cell: str, value: Any) -> tuple[Any, Any]:
    """Versions by their numbers (`"9.10"` after `"9.9"`), all other text by its words."""
    text = _words(value)
    if _VERSION.fullmatch(cell) and _VERSION.fullmatch(text):
        return tuple(map(_group, cell.split("."))), tuple(map(_group, text.split(".")))
    return _words(cell), text


def _group(digits: str) -> tuple[int, str]:
    """A number of any length, ordered without converting it: outside text may hold a million digits."""
    bare = digits.lstrip("0")
    return len(bare), bare


def _words(value: Any) -> str:
    """Text as it is compared: case and the client's `_` for a blank do not count."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return " ".join(text.casefold().replace("_", " ").split())


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    text = _words(value)
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    number = _number(value)
    return None if number is None else number != 0


def _number(value: Any) -> float | None:
    """A number, or None. Flags count as 1 and 0, since columns such as has_avx hold them so."""
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return float(value.strip().lower() == "true")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _order_term(term: Sequence[str]) -> tuple[str, bool]:
    if isinstance(term, str) or len(term) != 2 or not isinstance(term[0], str) or term[1] not in ("asc", "desc"):
        remedy = 'write [["dph_total", "asc"], ["num_gpus", "desc"]]'
        raise ContractError("filter_invalid", f"cannot order by {term!r}: no field and direction", remedy=remedy)
    return term[0], term[1] == "desc"


def _sort_key(cell: Any) -> tuple[int, Any] | None:
    """A key that compares with any other: numbers before text before the rest; None for an unknown cell."""
    if cell is None:
        return None
    if isinstance(cell, int | float | Decimal):
        number = _number(cell)
        return None if number is None else (0, number)
    return (1, _words(cell)) if isinstance(cell, str) else (2, str(cell))
