"""Reads an owner's terms from the body of `list machine`. A field that is null or absent keeps what it was."""

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kaalia.contracts import offer
from kaalia.contracts.offer import Listing
from kaalia.errors import ContractError
from kaalia.units import parse_duration_s
from kaalia.wire.error import ApiError

_NUMBERS = {
    "price_gpu": ("price_gpu_per_hour", 10_000),
    "price_disk": ("price_disk_per_gb_month", 10_000),
    "price_inetu": ("price_inet_up_per_gb", 10_000),
    "price_inetd": ("price_inet_down_per_gb", 10_000),
    "price_min_bid": ("price_min_bid_per_hour", 10_000),
    "credit_discount_max": ("credit_discount_max", 1),
}
"""API name to Listing field and greatest value: a price beyond it is a slip of the keyboard."""
MIN_GPU_MAX = 1024
DURATION_MAX_S = 10 * 365 * 86400


def read(body: dict[str, Any], current: Listing | None, num_gpus: int, now: datetime) -> Listing:
    """The listing after this request. Raises ApiError 400 `invalid_args` that names the field."""
    fields: dict[str, Any] = {} if current is None else {name: getattr(current, name) for name in _FIELDS}
    for name, (field, greatest) in _NUMBERS.items():
        if body.get(name) is not None:
            fields[field] = money(name, body[name], greatest)
    if "price_gpu_per_hour" not in fields:
        raise _invalid("price_gpu", "the machine has no price yet", "Give it with -g")
    if body.get("min_chunk") is not None:
        fields["min_gpu"] = int(_number("min_chunk", body["min_chunk"], 1, MIN_GPU_MAX, whole=True))
    fields |= _end(body, now)
    listing = Listing(**fields)
    try:
        offer.check_listing(listing, num_gpus)
    except ContractError as error:
        message = error.problem.message.replace("min_gpu", "min_chunk")
        raise ApiError(400, "invalid_args", message, remedy=error.problem.remedy) from error
    return listing


def money(name: str, value: Any, greatest: float = 10_000) -> Decimal:
    """A price as the client sends it, exactly as it was typed. Raises ApiError 400 `invalid_args`."""
    return Decimal(str(_number(name, value, 0, greatest)))


_FIELDS = tuple(Listing.__dataclass_fields__)


def _end(body: dict[str, Any], now: datetime) -> dict[str, Any]:
    """End date and rolling duration replace each other."""
    end_date, duration = body.get("end_date"), body.get("duration")
    if end_date is not None and duration is not None:
        raise _invalid("duration", "an end_date is given too", "Give one of them: a duration moves the end date daily")
    if end_date is not None:
        epoch = _number("end_date", end_date, 0, 32503680000)  # the year 3000
        if epoch <= now.timestamp():
            raise _invalid("end_date", f"{end_date} is past", "Give a later date")
        return {"end_at": datetime.fromtimestamp(epoch, UTC), "rolling_duration_s": None, "rolled_at": None}
    if duration is not None:
        return {"end_at": None, "rolling_duration_s": _duration_s(duration), "rolled_at": now}
    return {}


def _duration_s(duration: Any) -> float:
    remedy = "Write it like '3 months', '10 days' or a number of seconds, at most 10 years"
    if isinstance(duration, bool) or not isinstance(duration, int | float | str):
        raise _invalid("duration", f"{str(duration)[:40]!r} is no duration", remedy)
    try:
        seconds = parse_duration_s(duration)
    except ValueError as error:
        raise _invalid("duration", str(error)[:200], remedy) from error
    if not 0 < seconds <= DURATION_MAX_S:
        raise _invalid("duration", f"{seconds:g} s is out of range", remedy)
    return seconds


def _number(name: str, value: Any, least: float, greatest: float, whole: bool = False) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number <= greatest or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise _invalid(name, f"{str(value)[:40]!r} is not {kind} from {least:g} to {greatest:g}", f"Correct {name}")
    return number


def _invalid(field: str, cause: str, remedy: str) -> ApiError:
    return ApiError(400, "invalid_args", f"cannot list with this {field}: {cause}", remedy=remedy)
