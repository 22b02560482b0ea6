"""Scheduled jobs: requests that renters have sent for them at set times. `scheduled_runs` sends them.

A job is sent with the rights that its API key has then: the one that made it, or changed it last.
"""

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.clock import from_epoch
from kaalia.contracts import schedule
from kaalia.contracts.schedule import Frequency, Schedule
from kaalia.marketplace import auth, instances, scheduled_requests, sealing
from kaalia.marketplace.auth import Key
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.schedule_tables import scheduled_job_keys, scheduled_jobs
from kaalia.marketplace.db.tables import contracts
from kaalia.marketplace.routing import Caller
from kaalia.wire import schedule as wire
from kaalia.wire.error import ApiError
from kaalia.wire.schedule import Shown, Wanted

JOBS_MAX = 100
"""Per account."""
BODY_MAX_BYTES = 16 * 1024
BODIES = b"kaalia marketplace: scheduled requests at rest"

Row = sa.Row[Any]


async def create(context: Context, caller: Caller, wanted: Wanted) -> int:
    """Keep a job of the caller's; its id. Its request has been judged by `scheduled_requests.check`.

    Raises ApiError 404 `no_such_instance`, 422 `scheduled_job_exists`, 400 `schedule_invalid`, `schedule_too_many`;
    ContractError.
    """
    values = _values(context, caller, wanted)
    async with context.engine.begin() as tx:
        await instances.owned(tx, caller, wanted.instance_id)
        await _check_new(context, tx, caller, wanted, None)
        query = sa.select(sa.func.count()).where(scheduled_jobs.c.user_id == caller.user_id)
        if (await tx.execute(query)).scalar_one() >= JOBS_MAX:
            message = f"cannot schedule: the account has {JOBS_MAX} scheduled jobs already"
            raise ApiError(400, "schedule_too_many", message, remedy="Delete one: `vastai delete scheduled-job ID`")
        made = await tx.execute(sa.insert(scheduled_jobs).values(values).returning(scheduled_jobs.c.id))
        job_id = int(made.scalar_one())
        await _keep_key(tx, caller, job_id)
        return job_id


async def known(context: Context, key: Key, job_id: int) -> Wanted:
    """A job of the key's account, which the key may ask for itself.

    Raises ApiError 404 `no_such_scheduled_job`, 403 `not_authorized`, 409 `schedule_unreadable`.
    """
    async with context.engine.begin() as tx:
        row = (await tx.execute(_mine(key.caller).where(scheduled_jobs.c.id == job_id))).one_or_none()
    if row is None:
        raise _missing(job_id)
    wanted = wanted_of(context, row)
    authorise(key, wanted)
    return wanted


def authorise(key: Key, wanted: Wanted) -> None:
    """As the request by hand. Raises ApiError 403 `not_authorized`."""
    target = scheduled_requests.find(wanted.method, wanted.endpoint)
    auth.authorise(key, target.route, auth.parameters({}, wanted.body, target.path))


async def key_of(tx: AsyncConnection, row: Row) -> Key:
    """The key of a job, as it is now. Raises ApiError 403 `not_authorized`."""
    key_id = await tx.scalar(sa.select(scheduled_job_keys.c.key_id).where(scheduled_job_keys.c.job_id == row.id))
    key = None if key_id is None else await auth.of_id(tx, key_id)
    if key is None or key.caller.user_id != row.user_id:
        message = f"cannot send scheduled job {row.id}: the API key that scheduled it is deleted"
        raise ApiError(403, "not_authorized", message, remedy="Schedule it again with a key that is there")
    return key


async def _keep_key(tx: AsyncConnection, caller: Caller, job_id: int) -> None:
    await tx.execute(sa.delete(scheduled_job_keys).where(scheduled_job_keys.c.job_id == job_id))
    await tx.execute(sa.insert(scheduled_job_keys).values(job_id=job_id, key_id=caller.key_id))


async def replace(context: Context, caller: Caller, job_id: int, wanted: Wanted) -> None:
    """Another request, or another time, from now on. Raises as `create` does, and 404 `no_such_scheduled_job`."""
    values = _values(context, caller, wanted)
    async with context.engine.begin() as tx:
        await instances.owned(tx, caller, wanted.instance_id)
        await _check_new(context, tx, caller, wanted, job_id)
        mine = sa.and_(scheduled_jobs.c.id == job_id, scheduled_jobs.c.user_id == caller.user_id)
        done = await tx.execute(sa.update(scheduled_jobs).where(mine).values(values))
        if not done.rowcount:
            raise _missing(job_id)
        await _keep_key(tx, caller, job_id)


async def delete(context: Context, key: Key, job_id: int) -> None:
    """One that cannot be read too. Raises ApiError 404 `no_such_scheduled_job`, 403 `not_authorized`."""
    async with context.engine.begin() as tx:
        row = (await tx.execute(_mine(key.caller).where(scheduled_jobs.c.id == job_id))).one_or_none()
        if row is None:
            raise _missing(job_id)
        authorise(key, _shown(context, row).wanted)
        await tx.execute(sa.delete(scheduled_jobs).where(scheduled_jobs.c.id == job_id))


async def rows(context: Context, caller: Caller) -> list[dict[str, Any]]:
    """The caller's jobs as the API shows them, oldest first; none of instances that are gone."""
    async with context.engine.begin() as tx:
        found = (await tx.execute(_mine(caller).order_by(scheduled_jobs.c.id))).all()
    return [wire.row(_shown(context, row)) for row in found]


async def _check_new(
    context: Context, tx: AsyncConnection, caller: Caller, wanted: Wanted, but_for: int | None
) -> None:
    """The instance's row is locked, so no other like it can come meanwhile."""
    target = scheduled_requests.find(wanted.method, wanted.endpoint)
    mine = _mine(caller).where(scheduled_jobs.c.contract_id == wanted.instance_id)
    for row in (await tx.execute(mine)).all():
        if row.id == but_for or (row.request_method, row.api_endpoint) != (wanted.method, target.endpoint):
            continue
        has_same_times = _times(times_of(row)) == _times(wanted.schedule)
        if _body(context, row) == wanted.body or (target.is_bid and has_same_times):
            message = f"cannot schedule: scheduled job {row.id} of instance {wanted.instance_id} does the same already"
            remedy = f"Change that one, or delete it: `vastai delete scheduled-job {row.id}`"
            raise ApiError(422, "scheduled_job_exists", message, remedy=remedy, scheduled_job_id=row.id)


def _times(times: Schedule) -> tuple[object, ...]:
    return times.frequency, times.day, times.hour, times.minute


def _values(context: Context, caller: Caller, wanted: Wanted) -> dict[str, Any]:
    now, times = context.clock.now(), wanted.schedule
    schedule.check(times, now)
    body = json.dumps(wanted.body).encode()
    if len(body) > BODY_MAX_BYTES:
        message = f"cannot schedule: request_body has {len(body)} bytes, at most {BODY_MAX_BYTES}"
        raise ApiError(400, "schedule_invalid", message, remedy="Send what the request needs")
    coming = schedule.next_at(times, now)
    return {
        "user_id": caller.user_id,
        "contract_id": wanted.instance_id,
        "request_method": wanted.method,
        "api_endpoint": scheduled_requests.find(wanted.method, wanted.endpoint).endpoint,
        "request_body": sealing.seal(context.signing_key, body, BODIES),
        "frequency": str(times.frequency),
        "day_of_the_week": times.day,
        "hour_of_the_day": times.hour,
        "start_time": times.start_at.timestamp(),
        "end_time": times.end_at.timestamp(),
        "next_at": None if coming is None else coming.timestamp(),
    }


def wanted_of(context: Context, row: Row) -> Wanted:
    """The request as it was kept. Raises ApiError 409 `schedule_unreadable`."""
    body = _body(context, row)
    if body is None:
        message = f"cannot read the request of scheduled job {row.id}: it was kept under another key"
        raise ApiError(409, "schedule_unreadable", message, remedy="Delete the job and schedule it again")
    return Wanted(row.request_method, row.api_endpoint, body, row.contract_id, times_of(row))


def times_of(row: Row) -> Schedule:
    times = (from_epoch(row.start_time), from_epoch(row.end_time))
    return Schedule(Frequency(row.frequency), row.day_of_the_week, row.hour_of_the_day, *times)


def _body(context: Context, row: Row) -> dict[str, Any] | None:
    clear = sealing.unseal(context.signing_key, row.request_body, BODIES)
    return None if clear is None else dict(json.loads(clear))


def _shown(context: Context, row: Row) -> Shown:
    wanted = Wanted(row.request_method, row.api_endpoint, _body(context, row) or {}, row.contract_id, times_of(row))
    next_at, last_at = (None if one is None else from_epoch(one) for one in (row.next_at, row.last_at))
    return Shown(row.id, wanted, next_at, last_at, row.told)


def _mine(caller: Caller) -> sa.Select[Any]:
    alive = sa.and_(contracts.c.id == scheduled_jobs.c.contract_id, contracts.c.ended_at.is_(None))
    return sa.select(scheduled_jobs).join(contracts, alive).where(scheduled_jobs.c.user_id == caller.user_id)


def _missing(job_id: int) -> ApiError:
    message = f"cannot find scheduled job {job_id}: no such job of yours"
    return ApiError(404, "no_such_scheduled_job", message, remedy="`vastai show scheduled-jobs` lists yours")
