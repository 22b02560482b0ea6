"""Answers an offer search: every slice of a listed machine as a row, filtered, ordered and cut."""

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from kaalia.contracts import impact, query
from kaalia.contracts.impact import Impact
from kaalia.contracts.offer import bid_floor
from kaalia.contracts.vacancy import NO_MODEL, Vacancy
from kaalia.contracts.verification import costs
from kaalia.marketplace import listings, liveness
from kaalia.marketplace.context import Context
from kaalia.marketplace.listings import AskRecord, Free
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.machine import MachineReport
from kaalia.wire import facts
from kaalia.wire import offer as wire_offer
from kaalia.wire.error import ApiError
from kaalia.wire.offer import Offer

DEFAULT_STORAGE_GB = 5.0
"""What the client's search sends when `--storage` is not given."""
ROWS_MAX = 1000
"""At most this many rows whatever the limit: 3 KB each."""

_KINDS = {
    "on-demand": "on-demand",
    "ondemand": "on-demand",
    "ask": "on-demand",
    "bid": "bid",
    "interruptible": "bid",
    "reserved": "reserved",
}
_NO_FILTERS = frozenset({"order", "type", "limit", "allocated_storage", "client_id", "owner", "disable_bundling"})


@dataclass(frozen=True, slots=True)
class _Question:
    kind: str
    storage_gb: Decimal
    limit: int
    filters: Mapping[str, Any]
    order: list[Any]


async def search(context: Context, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for the body of `POST /bundles/`. Raises ApiError 400 `invalid_args`, ContractError `filter_invalid`."""
    question = _read(body)
    async with context.engine.begin() as tx:
        found = await listings.everything(tx, context.clock.now())
    # Thousands of rows take longer than an event loop may be blocked.
    return await asyncio.to_thread(_answer, found, question, context)


def _read(body: Mapping[str, Any]) -> _Question:
    question = _Question(
        kind=_kind(body.get("type")),
        storage_gb=Decimal(str(_number("allocated_storage", body.get("allocated_storage"), DEFAULT_STORAGE_GB, 1e9))),
        limit=int(_number("limit", body.get("limit"), ROWS_MAX, 1e9)),
        filters=_filters(body),
        order=_order(body.get("order")),
    )
    query.check(question.filters)
    return question


def _answer(
    found: list[tuple[MachineRecord, Free, list[AskRecord]]], question: _Question, context: Context
) -> list[dict[str, Any]]:
    now = context.clock.now()
    rows = [
        row
        for machine, free, records in found
        for offer in _offers(machine, free, records, now, context)
        if _matches(row := wire_offer.encode(offer, now, question.storage_gb, question.kind), question.filters)
    ]
    ordered = query.sort(rows, question.order)
    return [_sendable(row) for row in ordered[: min(question.limit, ROWS_MAX)]]


def _offers(
    machine: MachineRecord, free: Free, records: list[AskRecord], now: datetime, context: Context
) -> Iterator[Offer]:
    if machine.listing is None or machine.report is None:
        return
    report = machine.report
    hardware = {model: _hardware(machine, replace(report, gpus=gpus)) for model, gpus in machine.models.items()}
    hardware = hardware or {NO_MODEL: facts.encode(report)}
    reliability = liveness.reliability(machine, now, context.settings.offline_after_s, context.away)
    shut = listings.why_shut(machine, now, context.settings)
    trouble = tuple(sorted({one.code for one in costs(machine.verified, now)}))
    asides = machine.verified.asides if machine.verified else ()
    no_vms = any(impact.level(one.code) is Impact.VM for one in asides)
    for record in records:
        group = free.groups.get(record.model)
        if group is None or record.num_gpus > group.total:
            continue  # a GPU is lost: what such a slice would be is not known
        yield Offer(
            ask_id=record.id,
            machine_id=machine.id,
            host_id=machine.user_id,
            num_gpus=record.num_gpus,
            machine_gpus=machine.num_gpus,
            facts=hardware[record.model],
            disk_bytes=_disk_share(record, free),
            listing=machine.listing,
            rentable=record.rentable and shut is None,
            rented=record.contract_id is not None or _is_taken(record, free, group),
            reliability=reliability,
            verification=machine.verification,
            start_at=record.created_at,
            end_at=listings.end_of_contract(machine, now),
            bid_to_win=group.bid_to_win(record.num_gpus, bid_floor(machine.listing)),
            trouble=trouble,
            shut=shut,
            no_vms=no_vms,
        )


def _hardware(machine: MachineRecord, report: MachineReport) -> dict[str, Any]:
    """`dlperf` as it was measured by the test that proved the machine, where there was one; else reckoned."""
    row = facts.encode(report)
    proof = machine.verified.proof if machine.verified else None
    measured = None if proof is None else facts.measured_dlperf(report, proof.figures)
    return row if measured is None else {**row, "dlperf": measured}


def _disk_share(record: AskRecord, free: Free) -> int:
    """The unallocated disk in proportion to the free GPUs: the last slice gets all that is left."""
    return free.disk_bytes * record.num_gpus // max(free.gpus, record.num_gpus) if record.num_gpus else free.disk_bytes


def _is_taken(record: AskRecord, free: Free, group: Vacancy) -> bool:
    """Other contracts hold GPUs that this slice would need."""
    return group.free < min(record.num_gpus, group.fit) if record.num_gpus else not free.idle


def _matches(row: dict[str, Any], filters: Mapping[str, Any]) -> bool:
    name = row["gpu_name"]
    return query.matches(row if name is None else {**row, "gpu_name": facts.plain_gpu_name(name)}, filters)


def _filters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The filters among the keys; a name that carries the mark of a simulated GPU is compared without it."""
    filters = {field: value for field, value in body.items() if field not in _NO_FILTERS}
    names = filters.get("gpu_name")
    if isinstance(names, Mapping):
        filters["gpu_name"] = {operator: _unmarked(value) for operator, value in names.items()}
    return filters


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    return facts.plain_gpu_name(value) if isinstance(value, str) else value


def _order(order: Any) -> list[Any]:
    if order is None or order == []:
        return [["score", "desc"]]
    if not isinstance(order, list) or not all(isinstance(term, list) for term in order):
        raise _invalid("order", order, 'a list like [["dph_total", "asc"]]')
    return order


def _kind(kind: Any) -> str:
    if kind is None:
        return "on-demand"
    if not isinstance(kind, str) or kind not in _KINDS:
        raise _invalid("type", kind, "one of on-demand, bid and reserved")
    return _KINDS[kind]


def _number(name: str, value: Any, default: float, greatest: float) -> float:
    if value is None:
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= greatest:
        raise _invalid(name, value, "a number that is not negative")
    return number


def _sendable(row: dict[str, Any]) -> dict[str, Any]:
    """Clients sort offers by `dlperf` and trip over null, not over its absence."""
    return {field: value for field, value in row.items() if field != "dlperf" or value is not None}


def _invalid(name: str, value: Any, expected: str) -> ApiError:
    return ApiError(
        400,
        "invalid_args",
        f"cannot search with {name}={str(value)[:60]!r}: it must be {expected}",
        remedy=f"Correct {name}",
    )
