"""One page of rows: filter, order, cut, and the token of the next page, which always comes to an end."""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kaalia.contracts import query
from kaalia.wire.error import ApiError
from kaalia.wire.facts import SIMULATED, plain_gpu_name

PAGE_MAX = 25
"""Rows of one page at most; the client asks for as many."""


def page(
    rows: Sequence[dict[str, Any]],
    filters: Mapping[str, Any],
    order: Sequence[Sequence[str]],
    limit: int,
    token: str | None,
) -> dict[str, Any]:
    """The reply of the v1 list. Raises ApiError 400 for a limit or token that is none, ContractError for filters."""
    if not 1 <= limit <= PAGE_MAX:
        raise _invalid(f"cannot use limit={limit}: it must be 1 to {PAGE_MAX}", f"Send {PAGE_MAX} or leave it out")
    query.check(filters)
    found = query.sort([row for row in rows if matches(row, filters)], [*order, ["id", "asc"]])
    shown, following = cut(found, limit, token)
    labels = Counter(row["label"] for row in rows if row["label"] is not None)
    return {
        "success": True,
        "instances": shown,
        "next_token": following,
        "total_instances": len(rows),
        "instances_found": len(found),
        "label_counts": dict(sorted(labels.items())),
    }


def cut(found: Sequence[dict[str, Any]], limit: int, token: str | None) -> tuple[Sequence[dict[str, Any]], str | None]:
    """One page of rows that have ids, and the token of the next. Raises ApiError 400 for a token that is none."""
    start = 0 if not token else _start(found, token)
    shown = found[start : start + limit]
    following = start + len(shown)
    return shown, _token(shown[-1]["id"], following) if shown and following < len(found) else None


def matches(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Simulated GPUs are found under their plain name, and under the marked one that rows show."""
    if row["gpu_name"] is not None and SIMULATED.strip() not in str(filters.get("gpu_name")):
        row = {**row, "gpu_name": plain_gpu_name(row["gpu_name"])}
    return query.matches(row, filters)


def _token(last_id: int, following: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([last_id, following]).encode()).decode().rstrip("=")


def _start(found: Sequence[Mapping[str, Any]], token: str) -> int:
    """After the row that ended the last page; where it was, when it is gone meanwhile."""
    try:
        last_id, following = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if not isinstance(last_id, int) or not isinstance(following, int) or following < 1:
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise _invalid(
            f"cannot read after_token={token[:40]!r}", "Send the next_token of the page before, unchanged"
        ) from None
    place = next((place for place, row in enumerate(found) if row["id"] == last_id), None)
    return following - 1 if place is None else place + 1


def _invalid(message: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", message, remedy=remedy)
