import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.errors import Problem
from kaalia.marketplace.db import tables
from kaalia.wire import document
from kaalia.wire.protocol import TaskRequest, TaskResult, Verb
from tests.marketplace.renting import rent, rented_market, revision_of
from tests.marketplace.support import Answer, Market


async def ask(market: Market, instance_id: int, **body: Any) -> Answer:
    return await market.renter.call("PUT", f"/api/v0/instances/request_logs/{instance_id}/", body)


async def fetch(market: Market, answer: Answer) -> Answer:
    """GET the result without a key, from wherever this marketplace is served."""
    url = answer.body["result_url"]
    assert url.startswith(f"{market.context.settings.public_url}/api/v0/blobs/")
    return await market.anyone.call("GET", url.removeprefix(market.context.settings.public_url))


async def task_of(market: Market, answer: Answer) -> TaskRequest:
    task_id = answer.body["result_url"].rpartition("/")[2]
    async with market.context.engine.begin() as tx:
        text = await tx.scalar(sa.select(tables.tasks.c.document).where(tables.tasks.c.task_id == task_id))
    return document.decode(TaskRequest, str(text))


async def finish(market: Market, answer: Answer, result: TaskResult, rings: bool = True) -> None:
    """The daemon's result arrives."""
    task_id = answer.body["result_url"].rpartition("/")[2]
    async with market.context.engine.begin() as tx:
        await tx.execute(
            sa.update(tables.tasks).where(tables.tasks.c.task_id == task_id).values(result=document.encode(result))
        )
    if rings and (bell := market.context.task_bells.get(task_id)):
        bell.set()


async def test_logs_become_a_task_with_an_unguessable_address(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        before = await revision_of(market)

        answers = [await ask(market, instance_id, tail="50", filter="err|warn", daemon_logs="true") for _ in range(2)]
        plain = await ask(market, instance_id)

        task = await task_of(market, answers[0])
        assert (task.contract_id, task.tail, task.filter, task.daemon_logs) == (instance_id, 50, "err|warn", True)
        assert task.deadline_at > market.clock.now()
        assert len(task.task_id) >= 40
        assert len({answer.body["result_url"] for answer in answers}) == 2
        assert (await task_of(market, plain)).tail == 1000
        assert await revision_of(market) == before + 3


@pytest.mark.parametrize("rings", [True, False])
async def test_the_answer_is_held_until_the_text_comes(tmp_path: Path, rings: bool) -> None:
    async with rented_market(tmp_path) as market:
        answer = await ask(market, await rent(market))
        waiting = asyncio.create_task(fetch(market, answer))
        await asyncio.sleep(0.2)
        assert not waiting.done()

        await finish(market, answer, TaskResult("line 1\nline 2\n"), rings)

        blob = await asyncio.wait_for(waiting, 6)
        assert (blob.status, blob.body) == (200, "line 1\nline 2\n")
        assert blob.headers["Content-Type"].startswith("text/plain")
        assert (await fetch(market, answer)).body == "line 1\nline 2\n"
        assert market.context.task_bells == {}


async def test_a_late_machine_is_explained_after_eight_seconds(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answer = await ask(market, await rent(market))
        market.clock.advance(7.7)

        late = await asyncio.wait_for(fetch(market, answer), 6)
        await finish(market, answer, TaskResult("after all"))

        assert late.status == 200
        assert "has not answered yet" in late.body
        assert (await fetch(market, answer)).body == "after all"


async def test_an_offline_machine_is_explained_at_once(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        market.clock.advance(300)

        blob = await asyncio.wait_for(fetch(market, await ask(market, instance_id)), 6)

        assert blob.status == 200
        assert "machine 1 is offline" in blob.body


async def test_a_problem_is_told_behind_the_text(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answer = await ask(market, await rent(market))
        problem = Problem("no_container", "cannot read logs: no container yet", "wait until it runs")

        await finish(market, answer, TaskResult("", problem))

        assert (await fetch(market, answer)).body == (
            "kaalia: cannot read logs: no container yet [no_container]. wait until it runs\n"
        )


async def test_unknown_and_old_addresses_are_not_found(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        answer = await ask(market, instance_id)
        await finish(market, answer, TaskResult("text"))
        unknown = await market.anyone.call("GET", "/api/v0/blobs/abc")

        market.clock.advance(3601)
        old = await fetch(market, answer)
        await ask(market, instance_id)
        async with market.context.engine.begin() as tx:
            kept = await tx.scalar(sa.select(sa.func.count()).select_from(tables.tasks))

        assert (unknown.status, unknown.body["error"]) == (404, "no_such_blob")
        assert old.status == 404
        assert kept == 1


@pytest.mark.parametrize("body", [{"tail": "x"}, {"tail": -1}, {"tail": True}, {"tail": [1]}, {"filter": 5}])
async def test_a_bad_request_for_logs_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with rented_market(tmp_path) as market:
        answer = await ask(market, await rent(market), **body)

        assert (answer.status, answer.body["error"]) == (400, "invalid_args")


async def test_tails_are_numbers_texts_and_all(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)

        tails = [
            (await task_of(market, await ask(market, instance_id, tail=tail))).tail for tail in (5, "7", "all", 10**9)
        ]

        assert tails == [5, 7, 100_000, 100_000]


async def execute(market: Market, instance_id: int, **body: Any) -> Answer:
    return await market.renter.call("PUT", f"/api/v0/instances/command/{instance_id}/", body)


async def test_a_command_becomes_a_task(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)

        answer = await execute(market, instance_id, command="ls -l '/my data'")
        task = await task_of(market, answer)
        await finish(market, answer, TaskResult("total 0\n"))

        assert (answer.body["success"], answer.body["writeable_path"]) == (True, "")
        assert (task.verb, task.contract_id, task.command) == (Verb.EXECUTE, instance_id, "ls -l '/my data'")
        assert (await fetch(market, answer)).body == "total 0\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("cat /etc/shadow", "command_refused"),
        ("ls; cat x", "command_invalid"),
        ("ls 'x", "command_invalid"),
        ("", "command_invalid"),
        ("rm \0", "command_invalid"),
        (None, "invalid_args"),
        (["ls"], "invalid_args"),
    ],
)
async def test_a_bad_command_is_refused_at_once(tmp_path: Path, command: Any, code: str) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        before = await revision_of(market)

        answer = await execute(market, instance_id, command=command)

        assert (answer.status, answer.body["error"]) == (400, code)
        assert await revision_of(market) == before


async def test_a_command_on_somebody_else_s_instance_is_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answer = await execute(market, await rent(market) + 1, command="ls")

        assert (answer.status, answer.body["error"]) == (404, "invalid_id")


@pytest.mark.parametrize(
    "pattern", ["[", "C**", "(", "*", "a{3,1}", "(?P<x", "x" * 513, "(" * 500, r"(?i)[\x01-\uffff]", "[a-\uffff]"]
)
async def test_a_filter_that_is_no_regular_expression_is_refused(tmp_path: Path, pattern: str) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)

        answer = await ask(market, instance_id, filter=pattern)
        good = await ask(market, instance_id, filter="(error|warn)ing: .*[0-9]{3}")

        assert (answer.status, answer.body["error"]) == (400, "filter_invalid")
        assert answer.body["msg"].startswith("cannot use filter=")
        assert "ask for a plain word" in str(answer.body)
        assert (await task_of(market, good)).filter == "(error|warn)ing: .*[0-9]{3}"
