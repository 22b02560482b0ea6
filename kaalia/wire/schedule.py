"""Scheduled requests in the public API's spelling: what `--schedule` of the client sends, and `show scheduled-jobs`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kaalia.contracts.schedule import Frequency, Schedule
from kaalia.wire.error import ApiError

EPOCH_MAX_S = 32_503_680_000
"""The year 3000; a later time is none."""
_SECRETS = {
    "docker_login_pass": ("container_registry", "docker_login_user", "personal_repo"),
    "image_login": ("image", "template_id", "template_hash_id"),
}
"""What a scheduled request may hold that nobody should read, and the fields that say where it goes."""
_SHOWN = "(hidden)"
_WHEN = ("day_of_the_week", "hour_of_the_day")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request to be sent again and again. `instance_id`: the instance that the sender means, for a check."""

    method: str
    endpoint: str
    body: dict[str, Any]
    instance_id: int
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class Shown:
    """A job as its owner sees it. `next_at` None: it is over. `told`: how its last run went."""

    job_id: int
    wanted: Wanted
    next_at: datetime | None
    last_at: datetime | None
    told: str


def read(body: Mapping[str, Any]) -> Wanted:
    """Raises ApiError 400 `schedule_invalid` that names the field. Whether it may be scheduled is not judged here."""
    request = body.get("request_body")
    if not isinstance(request, dict):
        raise _invalid("request_body", request, "it must be an object")
    return Wanted(
        method=_text(body, "request_method"),
        endpoint=_text(body, "api_endpoint"),
        body=request,
        instance_id=_whole(body, "instance_id"),
        schedule=Schedule(
            frequency=_frequency(body.get("frequency")),
            day=None if body.get("day_of_the_week") is None else _whole(body, "day_of_the_week"),
            hour=None if body.get("hour_of_the_day") is None else _whole(body, "hour_of_the_day"),
            start_at=_time(body, "start_time"),
            end_at=_time(body, "end_time"),
        ),
    )


def merged(known: Wanted, body: Mapping[str, Any]) -> dict[str, Any]:
    """What `read` takes, after a change: what is not sent stays. With a frequency come its own day and hour.

    A secret that is sent as it is shown stays too. Raises ApiError 400 `schedule_invalid` when it would go elsewhere.
    """
    sent = {name: None for name in _WHEN if "frequency" in body} | {**body}
    request = body.get("request_body")
    if isinstance(request, dict):
        sent["request_body"] = request | _kept_secrets(known.body, request)
    return _fields(known) | sent


def _kept_secrets(known: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for secret, goes_to in _SECRETS.items():
        if request.get(secret) != _SHOWN or secret not in known:
            continue
        if any(request.get(name) != known.get(name) for name in goes_to):
            raise _invalid(secret, _SHOWN, f"with another {', '.join(goes_to)} it must be given again")
        kept[secret] = known[secret]
    return kept


def row(shown: Shown) -> dict[str, Any]:
    """Times in epoch seconds. Ours: when it is sent next and was last, and what came of it."""
    fields = _fields(shown.wanted)
    request = fields["request_body"]
    return {
        "id": shown.job_id,
        **fields,
        "request_body": request | {secret: _SHOWN for secret in _SECRETS if request.get(secret)},
        "min_of_the_hour": shown.wanted.schedule.minute,
        "next_run_time": None if shown.next_at is None else shown.next_at.timestamp(),
        "last_run_time": None if shown.last_at is None else shown.last_at.timestamp(),
        "last_result": shown.told,
    }


def _fields(wanted: Wanted) -> dict[str, Any]:
    schedule = wanted.schedule
    return {
        "instance_id": wanted.instance_id,
        "api_endpoint": wanted.endpoint,
        "request_method": wanted.method,
        "request_body": wanted.body,
        "start_time": schedule.start_at.timestamp(),
        "end_time": schedule.end_at.timestamp(),
        "frequency": str(schedule.frequency),
        "day_of_the_week": schedule.day,
        "hour_of_the_day": schedule.hour,
    }


def _frequency(value: Any) -> Frequency:
    try:
        return Frequency(value)
    except ValueError:
        raise _invalid("frequency", value, f"use one of {', '.join(Frequency)}") from None


def _time(body: Mapping[str, Any], name: str) -> datetime:
    seconds = _number(body.get(name))
    if seconds is None or not 0 <= seconds <= EPOCH_MAX_S:
        raise _invalid(name, body.get(name), "it must be a time in seconds since 1970")
    return datetime.fromtimestamp(seconds, UTC)


def _whole(body: Mapping[str, Any], name: str) -> int:
    """The client sends the instance of a cloud copy as text."""
    number = _number(body.get(name))
    if number is None or not number.is_integer():
        raise _invalid(name, body.get(name), "it must be a whole number")
    return int(number)


def _number(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _invalid(name, value, "it must be text")
    return value


def _invalid(name: str, value: Any, cause: str) -> ApiError:
    message = f"cannot schedule: {name}={str(value)[:80]!r} is unfit"
    return ApiError(400, "schedule_invalid", message, remedy=f"Correct {name}: {cause}")
