"""Tests of the whole machine. An order is written; the service that runs it finds it."""

from datetime import datetime

from aiohttp import web

from kaalia.api import context
from kaalia.api.context import Context
from kaalia.api.responses import NotFoundError, answer
from kaalia.errors import ConfigError, ContractError, KaaliaError
from kaalia.model.selftest import BURN_MAX_S, SelfTestOrder
from kaalia.store import enrolment, selftest
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire import document
from kaalia.wire.selftest_local import SelfTestDocument, SelfTestWish

_DIGITS_MAX = 18


async def show(request: web.Request) -> web.Response:
    """GET /v1/self-test: a SelfTestDocument of the newest run; `?run=3` of that one, `&samples=1` with its samples.

    Raises NotFoundError `no_such_selftest`.
    """
    here = context.of(request)
    number, with_samples = request.query.get("run"), request.query.get("samples") == "1"

    def read(tx: Transaction) -> SelfTestDocument:
        return _document(tx, here.clock.now(), number, with_samples=with_samples)

    return answer(await here.read(read))


async def order(request: web.Request) -> web.Response:
    """POST /v1/self-test with a SelfTestWish: 200 once the order is durable; the run that it became.

    Raises ConfigError `request_invalid`, ContractError `selftest_not_enrolled`, `selftest_under_way`.
    """
    here = context.of(request)
    wish = _wish(await request.read())
    only = tuple(dict.fromkeys(wish.only))
    now = here.clock.now()

    def work(tx: Transaction) -> SelfTestDocument:
        if enrolment.get(tx) is None:
            raise ContractError(
                "selftest_not_enrolled",
                "cannot test this machine: it is not enrolled, so no container is its own",
                remedy="run: kaalia enroll URL --token-file FILE",
            )
        for known in selftest.open_runs(tx):
            if known.order.task_id and known.began_at is None:
                selftest.cancel(tx, known.run_id, now)  # a marketplace's waits for its time, the owner does not
                continue
            raise ContractError(
                "selftest_under_way",
                f"cannot begin a self-test: number {known.run_id} is under way",
                remedy="follow it: kaalia self-test machine --last; or break it off: kaalia self-test cancel",
            )
        return SelfTestDocument(now, selftest.order(tx, SelfTestOrder(now, wish.is_quick, only, wish.burn_s)))

    return answer(await here.write(work, Topic.SELFTEST))


async def cancel(request: web.Request) -> web.Response:
    """DELETE /v1/self-test: 200 once it is asked for; the newest run. Where none is open nothing happens.

    `?run=3`: of that one only, which is told then; another may have begun since. Raises NotFoundError
    `no_such_selftest`.
    """
    here = context.of(request)
    number = request.query.get("run")
    return answer(await here.write(lambda tx: _cancelled(tx, here, number), Topic.SELFTEST))


def _cancelled(tx: Transaction, here: Context, number: str | None) -> SelfTestDocument:
    now = here.clock.now()
    told = _document(tx, now, number, with_samples=False)
    for known in selftest.open_runs(tx):
        if number is None or (told.run is not None and known.run_id == told.run.run_id):
            selftest.cancel(tx, known.run_id, now)
    return told


def _document(tx: Transaction, now: datetime, number: str | None, *, with_samples: bool) -> SelfTestDocument:
    if number is None:
        run = selftest.newest(tx)
    else:
        run = selftest.get(tx, int(number)) if number.isdecimal() and len(number) <= _DIGITS_MAX else None
        if run is None:
            raise NotFoundError(
                "no_such_selftest", f"cannot show the self-test {number[:_DIGITS_MAX]!r}: there is none"
            )
    if run is None:
        return SelfTestDocument(now, None)
    progress = selftest.get_progress(tx) if run.result is None else None
    return SelfTestDocument(now, run, progress, selftest.samples(tx, run.run_id) if with_samples else ())


def _wish(raw: bytes) -> SelfTestWish:
    try:
        wish = document.decode(SelfTestWish, raw) if raw.strip() else SelfTestWish()
    except KaaliaError as error:
        raise ConfigError("request_invalid", error.problem.message, remedy="see docs/self-test.md") from error
    if wish.burn_s is not None and not 0 < wish.burn_s <= BURN_MAX_S:
        raise ConfigError(
            "request_invalid",
            f"cannot burn for {wish.burn_s:g} s: it is more than 0 and at most {BURN_MAX_S:.0f}",
            remedy="kaalia self-test machine --burn MINUTES",
        )
    return wish
