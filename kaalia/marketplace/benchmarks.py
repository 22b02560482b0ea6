"""What machines measured of themselves in their tests: kept by figure, searched by `vastai search benchmarks`.

Signed claims of machines, one row for each figure of the newest self-test that counted. `dlperf` is reckoned from them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.contracts import query
from kaalia.marketplace import pages
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.verification_tables import benchmarks
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.verification import RunNote
from kaalia.wire import facts
from kaalia.wire.error import ApiError

SCORE = "dlperf"
"""Reckoned here, whatever a machine says of it."""
PAGE_MAX = 200
"""What the public service sends at most, and by default."""
_UNUSED = ("contract_id", "launch_args", "template_hash", "template_id")
"""Of benchmarks that renters' workers report; these are of machines."""


async def put(tx: AsyncConnection, machine: MachineRecord, note: RunNote, now: datetime) -> None:
    """The figures of a test that counts, instead of those of the one before."""
    told: dict[str, Any] = facts.encode(machine.report) if machine.report else {"gpu_name": None, "num_gpus": 0}
    values = {name: value for name, value in note.figures.items() if name != SCORE}
    if machine.report is not None and (points := facts.measured_dlperf(machine.report, note.figures)) is not None:
        values[SCORE] = points
    price = None
    if machine.listing is not None:
        price = float(machine.listing.price_gpu_per_hour) * max(int(told["num_gpus"]), 1)
    same = {
        "machine_id": machine.id,
        "gpu_name": told["gpu_name"],
        "num_gpus": told["num_gpus"],
        "dph_base": price,
        "image": None,
        "last_update": now.timestamp(),
    }
    await tx.execute(sa.delete(benchmarks).where(benchmarks.c.machine_id == machine.id))
    if values:
        rows = [{**same, "type": name, "value": value} for name, value in sorted(values.items())]
        await tx.execute(sa.insert(benchmarks), rows)


async def search(
    context: Context, filters: Mapping[str, Any], order: Sequence[Any], limit: int, token: str | None
) -> dict[str, Any]:
    """One page. Raises ApiError 400 for a limit, order or token that is none, ContractError for filters."""
    if not 1 <= limit <= PAGE_MAX:
        message = f"cannot use limit={limit}: it must be 1 to {PAGE_MAX}"
        raise ApiError(400, "invalid_args", message, remedy=f"Leave it out for {PAGE_MAX}")
    query.check(filters)
    terms = [*(_term(one) for one in order), ["id", "asc"]]
    async with context.engine.begin() as tx:
        found = [dict(row._mapping) for row in await tx.execute(sa.select(benchmarks))]
    # Thousands of rows take longer than an event loop may be blocked.
    return await asyncio.to_thread(_page, found, filters, terms, limit, token)


def _page(
    found: list[dict[str, Any]], filters: Mapping[str, Any], terms: list[Any], limit: int, token: str | None
) -> dict[str, Any]:
    rows = [{**row, **dict.fromkeys(_UNUSED)} for row in found]
    fitting = query.sort([row for row in rows if pages.matches(row, filters)], terms)
    shown, following = pages.cut(fitting, limit, token)
    return {"success": True, "benchmarks": shown, "benchmarks_found": len(fitting), "next_token": following}


def _term(one: Any) -> list[Any]:
    """`{"col": "last_update", "dir": "desc"}`, or a pair as offers have it."""
    if isinstance(one, dict):
        return [one.get("col"), one.get("dir", "asc")]
    return list(one) if isinstance(one, list) else [one]
