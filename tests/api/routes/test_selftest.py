"""Orders of a self-test over the local API: one at a time, within bounds, and what the owner wants goes first."""

import asyncio
import http.client
import json
import socket as sockets
from dataclasses import replace
from typing import Any

import pytest

from kaalia.client import LocalError
from kaalia.model.selftest import RunResult, SelfTestOrder, SelfTestRun, StepName
from kaalia.store import enrolment, selftest
from kaalia.wire.selftest_local import SelfTestDocument, SelfTestWish
from tests.api.conftest import Local
from tests.support.clock import START


async def enrolled(local: Local) -> None:
    known = enrolment.Enrolment("https://market.example", 12, {"k": "x"}, START)
    await local.database.transaction(lambda tx: enrolment.put(tx, known))


async def ordered(local: Local, wish: SelfTestWish | None = None) -> SelfTestDocument:
    return await asyncio.to_thread(local.client.order_self_test, wish or SelfTestWish())


async def refused(local: Local, wish: SelfTestWish | None = None) -> str:
    with pytest.raises(LocalError) as error:
        await ordered(local, wish)
    return error.value.code


def post(local: Local, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("kaalia")
    connection.sock = sockets.socket(sockets.AF_UNIX)
    connection.sock.connect(str(local.socket))
    connection.request("POST", "/v1/self-test", body)
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    connection.close()
    return reply.status, answer


async def test_an_order_becomes_a_run_and_there_is_one_at_a_time(local: Local) -> None:
    await enrolled(local)

    first = await ordered(local, SelfTestWish(is_quick=True, only=(StepName.CPU,), burn_s=30.0))

    assert first.run == SelfTestRun(1, SelfTestOrder(START, is_quick=True, only=(StepName.CPU,), burn_s=30.0))
    assert await refused(local) == "selftest_under_way"
    assert (await asyncio.to_thread(local.client.self_test)).run == first.run


async def test_what_a_marketplace_waits_for_makes_room_for_the_owner(local: Local) -> None:
    await enrolled(local)
    waiting = await local.database.transaction(lambda tx: selftest.order(tx, SelfTestOrder(START, task_id="t-1")))

    mine = await ordered(local)

    assert mine.run is not None
    assert mine.run.run_id == waiting.run_id + 1
    assert await local.database.read(lambda tx: selftest.is_cancelled(tx, waiting.run_id))
    assert await refused(local) == "selftest_under_way"


async def test_one_that_a_marketplace_wants_and_that_runs_is_not_pushed_aside(local: Local) -> None:
    await enrolled(local)

    def work(tx: Any) -> None:
        run = selftest.order(tx, SelfTestOrder(START, task_id="t-1"))
        selftest.put(tx, replace(run, began_at=START))

    await local.database.transaction(work)
    assert await refused(local) == "selftest_under_way"


async def test_a_cancelled_one_is_asked_to_end_and_the_next_can_be_ordered(local: Local) -> None:
    await enrolled(local)
    await asyncio.to_thread(local.client.cancel_self_test)
    first = await ordered(local)
    assert first.run is not None
    number = first.run.run_id

    await asyncio.to_thread(local.client.cancel_self_test)

    assert await local.database.read(lambda tx: selftest.is_cancelled(tx, number))
    done = replace(first.run, result=RunResult.NOT_RUN, ended_at=START)
    await local.database.transaction(lambda tx: selftest.put(tx, done))
    second = await ordered(local)
    assert second.run is not None
    assert second.run.run_id == number + 1
    assert (await asyncio.to_thread(local.client.self_test, number)).run == done


async def test_the_owners_is_broken_off_while_the_marketplaces_still_makes_room(local: Local) -> None:
    await enrolled(local)
    await local.database.transaction(lambda tx: selftest.order(tx, SelfTestOrder(START, task_id="t-1")))
    mine = await ordered(local)
    assert mine.run is not None
    number = mine.run.run_id

    await asyncio.to_thread(local.client.cancel_self_test)

    assert await local.database.read(lambda tx: selftest.is_cancelled(tx, number))


async def test_an_end_that_comes_late_ends_no_later_run(local: Local) -> None:
    await enrolled(local)
    first = await ordered(local)
    assert first.run is not None
    done = replace(first.run, result=RunResult.PASSED, ended_at=START)
    await local.database.transaction(lambda tx: selftest.put(tx, done))
    later = await ordered(local)
    assert later.run is not None
    number = later.run.run_id

    told = await asyncio.to_thread(local.client.cancel_self_test, first.run.run_id)

    assert told.run == done
    assert not await local.database.read(lambda tx: selftest.is_cancelled(tx, number))
    with pytest.raises(LocalError) as error:
        await asyncio.to_thread(local.client.cancel_self_test, 77)
    assert error.value.code == "no_such_selftest"


async def test_a_step_that_is_named_twice_is_one(local: Local) -> None:
    await enrolled(local)

    first = await ordered(local, SelfTestWish(only=(StepName.CPU, StepName.RAM, StepName.CPU)))

    assert first.run is not None
    assert first.run.order.only == (StepName.CPU, StepName.RAM)


async def test_a_run_that_there_is_not(local: Local) -> None:
    with pytest.raises(LocalError) as error:
        await asyncio.to_thread(local.client.self_test, 7)
    assert error.value.code == "no_such_selftest"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"only": ["gpu"]}',
        b'{"burn_s": 0}',
        b'{"burn_s": 1e9}',
        b'{"burn_s": "long"}',
        b'{"burn_s": NaN}',
        b'{"burn_s": -5}',
        b'{"burn_s": Infinity}',
        b'{"burn_s": 1e400}',
        b'{"burn_s": true}',
        b'{"only": null}',
        b"\xff\xfe",
        b'{"is_quick": 3}',
    ],
)
async def test_a_wish_that_is_none_is_refused_and_names_why(local: Local, body: bytes) -> None:
    await enrolled(local)

    status, answer = await asyncio.to_thread(post, local, body)

    assert (status, answer["error"]["code"]) == (400, "request_invalid")
    assert answer["error"]["message"].startswith("cannot ")
    assert await local.database.read(selftest.newest) is None


async def test_only_the_newest_are_kept_with_their_samples(local: Local) -> None:
    def work(tx: Any) -> None:
        for _ in range(selftest.RUNS_KEPT + 3):
            run = selftest.order(tx, SelfTestOrder(START))
            selftest.put(tx, replace(run, result=RunResult.PASSED))
            selftest.add_samples(tx, run.run_id, [])

    await local.database.transaction(work)

    rows = await local.database.read(lambda tx: tx.execute("SELECT run_id FROM selftest_samples").fetchall())
    assert len(rows) == selftest.RUNS_KEPT
    newest = await local.database.read(selftest.newest)
    assert newest is not None
    assert newest.run_id == selftest.RUNS_KEPT + 3
