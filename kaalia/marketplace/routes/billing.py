"""Charges, invoices and earnings of the caller: reads only."""

import asyncio
import base64
import binascii
import json
import math
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from kaalia.clock import from_epoch
from kaalia.contracts import query
from kaalia.errors import ContractError
from kaalia.marketplace import billing, deposits, statements
from kaalia.marketplace.db.tables import charges, contracts
from kaalia.marketplace.routes.parameters import MAX_IDS, json_value, whole_number
from kaalia.marketplace.routing import Call, Route
from kaalia.wire.error import ApiError

PAGE_MAX = 100
DAYS_MAX = 366
"""Of one question for earnings."""
EPOCH_MAX = 32503680000.0
"""The year 3000."""
IDS_MAX = 10_000


async def show_charges(call: Call) -> dict[str, Any]:
    """`day` of `select_filters`: whole UTC days, both ends included."""
    filters = json_value(call, "select_filters", dict, {})
    since, until = _window(filters.get("day"), call.context.clock.now())
    first, after = statements.start_of_day(since), statements.start_of_day(until) + statements.DAY
    types = _one_of(filters, "type", {"instance", "volume", "serverless"})
    async with call.context.engine.begin() as tx:
        found = await billing.lines(tx, charges.c.user_id == call.caller.user_id, first, min(after, _now(call)))
    rows = statements.charge_rows(found)
    return _page(call, [row for row in rows if not types or row["type"] in types])


async def show_invoices(call: Call) -> dict[str, Any]:
    filters = json_value(call, "select_filters", dict, {})
    since, until = _window(filters.get("when"), call.context.clock.now())
    services = _one_of(filters, "service", None)
    async with call.context.engine.begin() as tx:
        found = await billing.invoices_of(tx, call.caller.user_id)
    chosen = [row for row in found if since <= from_epoch(row.when) <= until]
    return _page(call, [statements.invoice_row(row) for row in chosen if not services or row.service in services])


async def show_old_invoices(call: Call) -> dict[str, Any]:
    now, user_id = _now(call), call.caller.user_id
    since = _time(call, "sdate", now - statements.DAY)
    until = min(_time(call, "edate", now), now)
    has_charges = call.request.query.get("inc_charges", "true").lower() != "false"
    async with call.context.engine.begin() as tx:
        paid = [row for row in await billing.invoices_of(tx, user_id) if since <= from_epoch(row.when) <= until]
        found = await billing.lines(tx, charges.c.user_id == user_id, since, until) if has_charges else []
        spent = await billing.spent(tx, charges.c.user_id == user_id, now)
        credit = await billing.credit(tx, user_id, now)
    rows = [*map(statements.old_invoice_row, paid), *statements.old_charge_rows(found)]
    return {
        "invoices": sorted(rows, key=lambda row: float(row["timestamp"])),
        "current": {"charges": float(spent), "service_fee": 0.0, "total": float(spent), "credit": float(credit)},
    }


async def search_invoices(call: Call) -> list[dict[str, Any]]:
    filters = json_value(call, "select_filters", dict, {})
    query.check(filters)
    async with call.context.engine.begin() as tx:
        rows = [statements.searched_row(row) for row in await billing.invoices_of(tx, call.caller.user_id)]
    return [row for row in rows if query.matches(row, filters)]


async def show_earnings(call: Call) -> dict[str, Any]:
    """Whole UTC days, both included; the client's days are numbers since 1970 and may have fractions."""
    now, user_id = _now(call), call.caller.user_id
    yesterday = now - statements.DAY
    first = statements.start_of_day(_day(call, "sday", yesterday))
    last = statements.start_of_day(_day(call, "eday", yesterday))
    if not timedelta(0) <= last - first < timedelta(days=DAYS_MAX):
        message = f"cannot show earnings from {first:%Y-%m-%d} to {last:%Y-%m-%d}: it must be 1 to {DAYS_MAX} days"
        raise ApiError(400, "invalid_args", message, remedy="Give -s and -e, the later one with -e")
    mine = charges.c.host_id == user_id
    if (machine_id := json_value(call, "machid", int, 0)) != 0:
        mine = sa.and_(mine, charges.c.machine_id == whole_number("machid", machine_id))
    async with call.context.engine.begin() as tx:
        used = await billing.load(tx, mine, first, min(last + statements.DAY, now))
        forfeits = await deposits.earned(tx, user_id)
        earned = float(await billing.spent(tx, charges.c.host_id == user_id, now) + statements.kept_usd(forfeits))
        credit = float(await billing.credit(tx, user_id, now))
    kept = [one for one in forfeits if machine_id in (0, one.machine_id)]
    # A year of a large owner takes longer than an event loop may be blocked.
    sums = await asyncio.to_thread(statements.earnings, used, kept, (first, last), now)
    return {**sums, "current": {"balance": earned, "service_fee": 0.0, "total": earned, "credit": credit}}


async def fetch_contracts(call: Call) -> dict[str, Any]:
    """Which of the caller's own contracts, ended ones too, bear a label."""
    label, ids = call.body.get("label"), call.body.get("contract_ids")
    mine = contracts.c.user_id == call.caller.user_id
    if label is not None:
        mine = sa.and_(mine, contracts.c.label == str(label))
    if ids is not None:
        if not isinstance(ids, list) or len(ids) > IDS_MAX:
            message = f"cannot read contract_ids: it must be a list of at most {IDS_MAX} ids"
            raise ApiError(400, "invalid_args", message, remedy=f"Send {MAX_IDS} at a time")
        mine = sa.and_(mine, contracts.c.id.in_([whole_number("contract_ids", one) for one in ids]))
    async with call.context.engine.begin() as tx:
        found = (await tx.execute(sa.select(contracts).where(mine).order_by(contracts.c.id))).all()
    rows = [
        {"id": row.id, "label": row.label, "machine_id": row.machine_id, "start_date": row.start_date} for row in found
    ]
    return {"success": True, "contracts": rows}


def _now(call: Call) -> datetime:
    return call.context.clock.now()


def _window(condition: Any, now: datetime) -> tuple[datetime, datetime]:
    """`{"gte": epoch, "lte": epoch}`; by default the last seven days."""
    if condition is None:
        condition = {}
    if not isinstance(condition, dict) or not set(condition) <= {"gte", "lte", "gt", "lt"}:
        raise ContractError("filter_invalid", "cannot filter by this time", remedy='write {"gte": epoch, "lte": epoch}')
    until = _epoch("lte", condition.get("lte", condition.get("lt")), now)
    return _epoch("gte", condition.get("gte", condition.get("gt")), until - timedelta(days=7)), until


def _epoch(name: str, value: Any, default: datetime) -> datetime:
    if value is None:
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= EPOCH_MAX:
        message = f"cannot read {name}={str(value)[:40]!r}: it must be a time in seconds since 1970"
        raise ApiError(400, "invalid_args", message, remedy=f"Correct {name}")
    return from_epoch(number)


def _time(call: Call, name: str, default: datetime) -> datetime:
    return _epoch(name, call.request.query.get(name), default)


def _day(call: Call, name: str, default: datetime) -> datetime:
    text = call.request.query.get(name)
    try:
        value = None if text is None else float(text) * statements.DAY.total_seconds()
    except ValueError:
        value = math.nan
    return _epoch(name, value, default)


def _one_of(filters: dict[str, Any], name: str, known: set[str] | None) -> set[str]:
    """`{"in": [...]}` of a filter; empty: everything."""
    condition = filters.get(name)
    values = condition.get("in", [condition.get("eq")]) if isinstance(condition, dict) else []
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ContractError("filter_invalid", f"cannot filter by this {name}", remedy='write {"in": ["name"]}')
    if known is not None and not set(values) <= known:
        remedy = f"use one of {', '.join(sorted(known))}"
        raise ContractError("filter_invalid", f"cannot filter by {name} {values}: there is no such", remedy=remedy)
    return set(values)


def _page(call: Call, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One page, oldest first unless asked otherwise. The token is the place after the last row."""
    limit = json_value(call, "limit", int, 20)
    if not 1 <= limit <= PAGE_MAX:
        message = f"cannot use limit={limit}: it must be 1 to {PAGE_MAX}"
        raise ApiError(400, "invalid_args", message, remedy="Leave it out for 20")
    is_latest_first = json_value(call, "latest_first", bool, False)
    rows = sorted(rows, key=lambda row: float(row["start"]), reverse=is_latest_first)
    start = _place(call.request.query.get("after_token"))
    shown, following = rows[start : start + limit], start + limit
    token = base64.urlsafe_b64encode(json.dumps(following).encode()).decode() if following < len(rows) else None
    return {"success": True, "results": shown, "count": len(shown), "total": len(rows), "next_token": token}


def _place(token: str | None) -> int:
    if not token:
        return 0
    try:
        place = json.loads(base64.urlsafe_b64decode(token))
        if isinstance(place, int) and place > 0:
            return place
    except (ValueError, binascii.Error):
        pass
    message = f"cannot read after_token={token[:40]!r}"
    raise ApiError(400, "invalid_args", message, remedy="Send the next_token of the page before, unchanged")


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v0/charges", "billing_read", show_charges),
    Route("GET", "/api/v1/invoices", "billing_read", show_invoices),
    Route("GET", "/api/v0/invoices", "billing_read", search_invoices),
    Route("GET", "/api/v0/users/me/invoices", "billing_read", show_old_invoices),
    Route("GET", "/api/v0/users/me/machine-earnings", "billing_read", show_earnings),
    Route("POST", "/api/v0/contracts/fetch", "billing_read", fetch_contracts),
)
