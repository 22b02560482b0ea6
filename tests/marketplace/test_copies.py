"""`vastai copy` at the marketplace: who is asked for what, what the client is told, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from kaalia.errors import Problem
from kaalia.marketplace import copy_keys, copy_notes, errands
from kaalia.marketplace.db import tables
from kaalia.model.copying import CopyDestination, CopyState, CopyStatus, Holder, HolderKind
from kaalia.wire import document
from kaalia.wire.protocol import TaskRequest, TaskResult, Verb
from tests.marketplace.renting import accept, ask_of, list_machine, rent, rented_market
from tests.marketplace.support import Answer, Market, add_machine
from tests.support.machines import machine_report

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhbEFfYX0vGl1ZbRpA3vWq3VbHlaWmGvTq0vTqzqqzq"


@asynccontextmanager
async def opened(folder: Path, public_ip: str | None = "203.0.113.7") -> AsyncIterator[tuple[Market, int]]:
    """A marketplace, and an instance of the renter's, who has a key."""
    report = machine_report()
    report = replace(report, network=replace(report.network, public_ip=public_ip))
    async with rented_market(folder, report) as market:
        assert (await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": f"{KEY} me"})).status == 200
        yield market, await rent(market)


async def copy(market: Market, src: object, dst: object, **body: Any) -> Answer:
    paths = {"src_path": "/a/", "dst_path": "/b/"}
    request = {"client_id": "me", "src_id": src, "dst_id": dst, **paths, **body}
    route = "rsync" if src is None or dst is None else "copy_direct"
    return await market.renter.call("PUT", f"/api/v0/commands/{route}/", request)


async def open_task(market: Market) -> TaskRequest | None:
    async with market.context.engine.begin() as tx:
        text = await tx.scalar(sa.select(tables.tasks.c.document).where(tables.tasks.c.result.is_(None)))
    return None if text is None else document.decode(TaskRequest, str(text))


async def answered(market: Market, result: TaskResult, asking: Any) -> tuple[TaskRequest, Answer]:
    """What the machine was asked, and what the client was told when it gave that result."""
    waiting = asyncio.ensure_future(asking)
    return await give(market, result), await waiting


async def give(market: Market, result: TaskResult) -> TaskRequest:
    """A machine's answer to the next request; what it was."""
    async with asyncio.timeout(30):
        while (task := await open_task(market)) is None:
            await asyncio.sleep(0.01)
    async with market.context.engine.begin() as tx:
        mine = sa.update(tables.tasks).where(tables.tasks.c.task_id == task.task_id)
        await tx.execute(mine.values(result=document.encode(result)))
    if bell := market.context.task_bells.get(task.task_id):
        bell.set()
    return task


def refusal(answer: Answer) -> tuple[int, str]:
    assert answer.body["success"] is False
    assert answer.body["msg"].startswith("cannot "), answer.body
    return answer.status, answer.body["error"]


async def test_an_upload_gets_the_machines_address_and_a_port(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        for name in (f"C.{instance}", str(instance)):
            task, answer = await answered(market, TaskResult("40799 ssh-ed25519 HOST"), copy(market, None, name))
            assert answer.status == 200
            assert {"success": True, "dst_addr": "203.0.113.7", "dst_port": 40799}.items() <= answer.body.items()
            assert task.verb is Verb.DOOR
            assert task.door is not None
            assert (str(task.door.holder), task.door.keys) == (f"C.{instance}", (KEY,))
            assert task.deadline_at > market.clock.now()


async def test_a_download_by_either_route(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        for local in (None, "local"):
            _, answer = await answered(market, TaskResult("40700 ssh-ed25519 HOST"), copy(market, instance, local))
            assert {"success": True, "src_addr": "203.0.113.7", "src_port": 40700}.items() <= answer.body.items()


async def test_what_the_machine_refuses_is_the_answer(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        problem = Problem("kit_missing", "cannot serve", "run install.sh")
        _, answer = await answered(market, TaskResult("", problem), copy(market, None, f"C.{instance}"))
        assert refusal(answer) == (409, "kit_missing")
        assert answer.body["msg"] == "cannot serve. run install.sh"


async def test_a_silent_machine_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands, "WAIT_S", 0.1)
    async with opened(tmp_path) as (market, instance):
        assert refusal(await copy(market, None, f"C.{instance}")) == (504, "machine_late")


async def test_what_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        mine = f"C.{instance}"
        assert refusal(await copy(market, None, "C.9999")) == (404, "no_such_instance")
        assert refusal(await copy(market, "V.9999", "local")) == (404, "no_such_volume")
        assert refusal(await copy(market, "local", None)) == (400, "copy_both_local")
        assert refusal(await copy(market, None, mine, dst_path="/a/../../etc")) == (400, "copy_path_invalid")
        assert refusal(await copy(market, None, "Z.1")) == (400, "copy_place_invalid")
        assert refusal(await copy(market, "hf.101", mine)) == (400, "copy_cloud_unsupported")
        assert refusal(await copy(market, mine, mine, src_path="/a/", dst_path="/a/b/")) == (400, "copy_overlaps")
        body = {"src_id": None, "dst_id": mine, "src_path": "a", "dst_path": "/b"}
        foreign = await market.host.call("PUT", "/api/v0/commands/rsync/", body)
        assert refusal(foreign) == (404, "no_such_instance")
        market.clock.advance(1000)
        assert refusal(await copy(market, None, mine)) == (409, "machine_offline")
        assert await open_task(market) is None


async def test_a_machine_that_nobody_reaches_is_told_of_before_it_is_asked(tmp_path: Path) -> None:
    async with opened(tmp_path, public_ip=None) as (market, instance):
        assert refusal(await copy(market, None, f"C.{instance}")) == (409, "copy_no_address")
        assert await open_task(market) is None


async def test_nobody_without_a_key_is_let_in(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = await rent(market)
        assert refusal(await copy(market, None, f"C.{instance}")) == (400, "copy_keys_missing")


async def test_two_of_one_machine_are_one_request(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, one):
        two = await rent(market)
        task, answer = await answered(market, TaskResult("begun"), copy(market, one, f"C.{two}"))
        assert (answer.status, answer.body["success"]) == (200, True)
        assert "dst_port" not in answer.body
        assert task.verb is Verb.COPY
        assert task.copy is not None
        assert (str(task.copy.source.holder), task.copy.source.path) == (f"C.{one}", "/a/")
        assert (str(task.copy.target.holder), task.copy.target.path) == (f"C.{two}", "/b/")
        assert task.copy.away is None
        for instance in (one, two):
            row = (await market.renter.call("GET", f"/api/v0/instances/{instance}/")).body["instances"]
            assert f"copy from C.{one} to C.{two}: asked for" in row["status_msg"]

        nobody = await market.host.call("DELETE", "/api/v0/commands/copy_direct/", {"dst_id": f"C.{two}"})
        assert refusal(nobody) == (404, "no_such_instance")
        cancelling = market.renter.call("DELETE", "/api/v0/commands/copy_direct/", {"dst_id": f"{two}:/b/"})
        task, answer = await answered(market, TaskResult("1"), cancelling)
        assert (task.verb, str(task.holder)) == (Verb.CANCEL_COPY, f"C.{two}")
        assert answer.body["success"] is True
        cancelling = market.renter.call("DELETE", "/api/v0/commands/copy_direct/", {"dst_id": f"C.{two}"})
        _, answer = await answered(market, TaskResult("0"), cancelling)
        assert refusal(answer) == (404, "copy_unknown")


async def test_two_machines_meet_by_a_key_and_a_door(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, one):
        report = machine_report()
        other = await add_machine(
            market.context, replace(report, network=replace(report.network, public_ip="203.0.113.9"))
        )
        await list_machine(market.context, other)
        two = int((await accept(market, await ask_of(market.context, machine_id=other))).body["new_contract"])
        key = f"ssh-ed25519 {'B' * 68}"

        waiting = asyncio.ensure_future(copy(market, f"C.{one}", f"C.{two}"))
        first = await give(market, TaskResult(key))
        second = await give(market, TaskResult("40777 ssh-ed25519 HOST"))
        third = await give(market, TaskResult("begun"))
        assert (await waiting).body["success"] is True

        assert [task.verb for task in (first, second, third)] == [Verb.COPY_KEY, Verb.DOOR, Verb.COPY]
        assert second.door is not None
        assert set(second.door.keys) == {key, KEY}
        assert third.copy is not None
        assert third.copy.copy_id == first.copy_id
        assert third.copy.away == CopyDestination("203.0.113.9", 40777, "ssh-ed25519 HOST")


async def test_what_goes_on_is_read_in_the_instances_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        _, answer = await answered(market, TaskResult("1"), copy(market, None, f"C.{instance}", dst_path="/root/"))
        assert "warning" in answer.body["msg"]
        holder, now = Holder(HolderKind.INSTANCE, instance), market.clock.now()
        status = CopyStatus("x", holder, CopyState.RUNNING, now, "copy by rsync: 5.0 MiB received")

        async def told(machine_id: int) -> str:
            async with market.context.engine.begin() as tx:
                await copy_notes.record(tx, machine_id, status, market.clock.now())
            row = (await market.renter.call("GET", f"/api/v0/instances/{instance}/")).body["instances"]
            return str(row["status_msg"])

        assert "5.0 MiB" not in await told(2)  # somebody else's word
        message = await told(1)
        assert "copy by rsync: 5.0 MiB received; warning: /root/ of" in message
        market.clock.advance(3601)
        row = (await market.renter.call("GET", f"/api/v0/instances/{instance}/")).body["instances"]
        assert "5.0 MiB" not in row["status_msg"]


async def test_a_key_that_goes_is_withdrawn_from_the_machines_that_may_have_a_door(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        await answered(market, TaskResult("40799 ssh-ed25519 HOST"), copy(market, None, f"C.{instance}"))
        key_id = (await market.renter.call("GET", "/api/v0/ssh/")).body[0]["id"]
        assert (await market.renter.call("DELETE", f"/api/v0/ssh/{key_id}/", {})).status == 200
        assert await open_task(market) is None, "it was copied to the instance when that was rented"

        attached = (await market.renter.call("GET", f"/api/v0/instances/{instance}/ssh/")).body[0]["id"]
        gone = await market.renter.call("DELETE", f"/api/v0/instances/{instance}/ssh/{attached}/", {})
        assert gone.status == 200
        task = await open_task(market)
        assert task is not None
        assert (task.verb, task.contract_id) == (Verb.WITHDRAW_KEYS, instance)
        assert task.door is not None
        assert (str(task.door.holder), task.door.keys) == (f"C.{instance}", (KEY,))
        assert task.deadline_at > market.clock.now() + timedelta(minutes=50)


async def test_nobody_is_told_of_a_key_where_no_copy_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        path = f"/api/v0/instances/{instance}/ssh/"
        attached = (await market.renter.call("GET", path)).body[0]["id"]
        assert (await market.renter.call("DELETE", f"{path}{attached}/", {})).status == 200
        assert await open_task(market) is None


async def test_a_key_that_is_not_withdrawn_from_doors_is_not_detached_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (market, instance):
        await answered(market, TaskResult("40799 ssh-ed25519 HOST"), copy(market, None, f"C.{instance}"))
        key_id = (await market.renter.call("GET", "/api/v0/ssh/")).body[0]["id"]
        assert (await market.renter.call("DELETE", f"/api/v0/ssh/{key_id}/", {})).status == 200
        path = f"/api/v0/instances/{instance}/ssh/"
        attached = (await market.renter.call("GET", path)).body[0]["id"]
        async with market.context.engine.begin() as tx:
            await tx.execute(
                sa.text("CREATE TRIGGER full BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, 'full'); END")
            )
        assert (await market.renter.call("DELETE", f"{path}{attached}/", {})).status == 500
        assert [one["id"] for one in (await market.renter.call("GET", path)).body] == [attached]


async def test_withdrawing_a_key_looks_at_no_stranger_s_copies(tmp_path: Path) -> None:
    async with opened(tmp_path) as (market, instance):
        said = list[str]()
        engine, now = market.context.engine, market.clock.now()
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *words: said.append(str(words[2])))

        async def statements() -> int:
            said.clear()
            async with engine.begin() as tx:
                row = await tx.execute(sa.select(tables.contracts.c.user_id).where(tables.contracts.c.id == instance))
                told = await copy_keys.withdraw(tx, int(row.scalar_one()), ["ssh-ed25519 GONE"], now)
            assert len(told) == 1
            return len(said)

        async with engine.begin() as tx:
            await copy_notes.put(tx, Holder(HolderKind.INSTANCE, instance), 1, "copied", "", now)
        alone = await statements()
        async with engine.begin() as tx:
            for number in range(50):
                kind = HolderKind.VOLUME if number % 2 else HolderKind.INSTANCE
                await copy_notes.put(tx, Holder(kind, 10**6 + number), 1, "copied", "", now)
        assert await statements() == alone
