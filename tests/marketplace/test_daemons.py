"""The server's side of the protocol, spoken to by a machine that may lie."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from kaalia.contracts.contract import Desired
from kaalia.contracts.offer import Listing
from kaalia.marketplace import machines, sealing
from kaalia.marketplace.db import tables
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.wire import document, signature
from kaalia.wire.protocol import (
    CUT,
    TASK_RESULT_MAX_BYTES,
    MessageKind,
    RegistryLoginReply,
    StatusMessage,
    StatusPost,
    TaskRequest,
    TaskResult,
    Verb,
)
from tests.marketplace.liar import Liar, open_liar, other_machine
from tests.support.machines import machine_report
from tests.sync.support import destroy, known_status, rent, status


def workload(seq: int, told: WorkloadStatus) -> StatusMessage:
    return StatusMessage(seq, MessageKind.WORKLOAD, workload=told)


async def test_wrong_key_is_refused(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        liar.key = signature.generate_key()
        reply = await liar.send("GET", liar.path("desired"))

    assert (reply.status, reply.code) == (401, "signature_invalid")


async def test_machine_cannot_speak_for_another(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        other = await other_machine(liar)
        reply = await liar.send("GET", other.path("desired"))
        unknown = await liar.send("GET", "/kaalia/v1/machines/999/desired")

    assert (reply.status, reply.code) == (401, "signature_invalid")
    assert (unknown.status, unknown.code) == (401, "machine_unknown")


async def test_unsigned_request_is_refused(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        reply = await liar.raw("GET", liar.path("desired"), {})

    assert (reply.status, reply.code) == (401, "signature_missing")


async def test_replayed_request_is_refused(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        target = liar.path("desired?wait=0")
        headers = liar.sign("GET", target)
        first = await liar.raw("GET", target, headers)
        again = await liar.raw("GET", target, headers)

    assert first.status == 200
    assert (again.status, again.code) == (401, "nonce_replayed")


async def test_tampered_body_is_refused_and_not_applied(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        target = liar.path("status")
        body = document.encode(StatusPost("s", 1, 1, liar.market.clock.now(), ())).encode()
        reply = await liar.raw("POST", target, liar.sign("POST", target, body), body.replace(b'"s"', b'"t"'))
        async with liar.market.context.engine.begin() as tx:
            machine = await machines.get(tx, liar.machine_id)

    assert (reply.status, reply.code) == (401, "digest_mismatch")
    assert machine is not None
    assert machine.last_seen_at is None


async def test_wrong_clock_is_refused_with_the_servers_time(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        target = liar.path("desired?wait=0")
        headers = liar.sign("GET", target)
        liar.market.clock.advance(301)
        reply = await liar.raw("GET", target, headers)

    assert (reply.status, reply.code) == (401, "clock_skew")
    assert json.loads(reply.body)["server_time"] == liar.market.clock.now().isoformat()


async def test_bad_bodies_name_their_field(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        target = liar.path("status")
        body = b'{"stream_id": 5}'
        reply = await liar.raw("POST", target, liar.sign("POST", target, body), body)
        query = await liar.send("GET", liar.path("desired?wait=long"))

    assert (reply.status, reply.code) == (400, "document_invalid")
    assert "stream_id" in json.loads(reply.body)["msg"]
    assert (query.status, query.code) == (400, "query_invalid")


async def test_snapshot_is_whole_and_only_of_this_machine(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        context, now = liar.market.context, liar.market.clock.now()
        other = await other_machine(liar)
        mine = await rent(context, liar.machine_id)
        ended = await rent(context, liar.machine_id)
        await rent(context, other.machine_id)
        await destroy(context, liar.machine_id, ended, now)
        async with context.engine.begin() as tx:
            await machines.put_listing(tx, liar.machine_id, Listing(Decimal("0.35")))
        snapshot = await liar.look()

    assert snapshot is not None
    assert [(c.contract_id, c.desired) for c in snapshot.contracts] == [(mine, Desired.RUNNING), (ended, Desired.ENDED)]
    assert snapshot.listing == Listing(Decimal("0.35"))
    assert (snapshot.machine_id, snapshot.epoch, snapshot.complete) == (liar.machine_id, 1, True)
    assert snapshot.not_after - snapshot.issued_at == timedelta(hours=1)
    assert snapshot.marketplace_url == context.settings.public_url


async def test_no_news_is_204_after_the_wait(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        snapshot = await liar.look()
        assert snapshot is not None
        started = asyncio.get_running_loop().time()
        nothing = await liar.look(snapshot.epoch, snapshot.revision, wait=1)
        took_s = asyncio.get_running_loop().time() - started

    assert nothing is None
    assert 0.9 < took_s < 3


async def test_long_poll_is_woken_by_news(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        snapshot = await liar.look()
        assert snapshot is not None
        loop = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(liar.look(snapshot.epoch, snapshot.revision, wait=30))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        rung_at_s = loop.time()
        contract_id = await rent(liar.market.context, liar.machine_id)
        news = await waiting

    assert news is not None
    assert [c.contract_id for c in news.contracts] == [contract_id]
    assert news.revision > snapshot.revision
    assert loop.time() - rung_at_s < 2


async def test_machine_that_knows_more_is_told_that_history_is_lost(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        reply = await liar.send("GET", liar.path("desired?epoch=1&revision=99&wait=0"))
        newer_epoch = await liar.send("GET", liar.path("desired?epoch=2&revision=1&wait=0"))
        older_epoch = await liar.look(epoch=0, revision=99)

    assert (reply.status, reply.code) == (409, "history_lost")
    assert newer_epoch.code == "history_lost"
    assert older_epoch is not None


async def test_status_is_applied_and_acknowledged_once(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        context, now = liar.market.context, liar.market.clock.now()
        contract_id = await rent(context, liar.machine_id)
        first = await liar.post(workload(5, status(contract_id, WorkloadState.PULLING, now)))
        lie = status(contract_id, WorkloadState.FAILED, now + timedelta(seconds=9))
        again = await liar.post(workload(5, lie))
        after_repeat = await known_status(context, contract_id)
        later = await liar.post(
            workload(7, status(contract_id, WorkloadState.RUNNING, now + timedelta(seconds=2))),
            workload(6, status(contract_id, WorkloadState.STARTING, now + timedelta(seconds=1))),
        )
        at_last = await known_status(context, contract_id)

    assert (first.acked_seq, again.acked_seq, later.acked_seq) == (5, 5, 7)
    assert after_repeat is not None
    assert after_repeat.state is WorkloadState.PULLING
    assert at_last is not None
    assert at_last.state is WorkloadState.RUNNING


async def test_messages_count_in_their_order_though_the_machines_clock_was_set_back(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        context, now = liar.market.context, liar.market.clock.now()
        contract_id = await rent(context, liar.machine_id)
        await liar.post(workload(1, status(contract_id, WorkloadState.RUNNING, now + timedelta(seconds=200))))
        exited = status(contract_id, WorkloadState.EXITED, now + timedelta(seconds=10))
        await liar.post(workload(2, exited), workloads=(exited,))
        at_last = await known_status(context, contract_id)

    assert at_last is not None
    assert at_last.state is WorkloadState.EXITED


async def test_absurd_numbers_are_refused(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        now = liar.market.clock.now()
        posts = [
            StatusPost("s", 1, 1, now, (StatusMessage(2**70, MessageKind.WORKLOAD),)),
            StatusPost("s", 1, 2**70, now, ()),
            StatusPost("s", 1, 1, now, (), (status(2**70, WorkloadState.RUNNING, now),)),
        ]
        replies = [await liar.send("POST", liar.path("status"), post) for post in posts]

    assert [(reply.status, reply.code) for reply in replies] == [(400, "document_invalid")] * 3


async def test_new_stream_counts_from_the_start(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        now = liar.market.clock.now()
        contract_id = await rent(liar.market.context, liar.machine_id)
        await liar.post(workload(50, status(contract_id, WorkloadState.PULLING, now)))
        reply = await liar.post(workload(1, status(contract_id, WorkloadState.RUNNING, now)), stream="new")
        known = await known_status(liar.market.context, contract_id)

    assert reply.acked_seq == 1
    assert known is not None
    assert known.state is WorkloadState.RUNNING


async def test_status_of_a_foreign_contract_is_not_applied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_liar(tmp_path) as liar:
        now = liar.market.clock.now()
        other = await other_machine(liar)
        theirs = await rent(liar.market.context, other.machine_id)
        mine = await rent(liar.market.context, liar.machine_id)
        reply = await liar.post(
            workload(1, status(theirs, WorkloadState.ENDED, now)),
            workload(2, status(mine, WorkloadState.RUNNING, now)),
            workloads=(status(theirs, WorkloadState.FAILED, now),),
        )
        snapshot = await other.look()
        theirs_known = await known_status(liar.market.context, theirs)

    assert reply.acked_seq == 2
    assert theirs_known is None
    assert snapshot is not None
    assert [c.contract_id for c in snapshot.contracts] == [theirs]
    assert f"machine {liar.machine_id} spoke of contract {theirs}" in caplog.text


async def test_ended_contract_is_forgotten(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        context, now = liar.market.context, liar.market.clock.now()
        contract_id = await rent(context, liar.machine_id)
        await destroy(context, liar.machine_id, contract_id, now)
        before = await liar.look()
        await liar.post(workload(1, status(contract_id, WorkloadState.ENDED, now)))
        after = await liar.look()

    assert before is not None
    assert after is not None
    assert [c.desired for c in before.contracts] == [Desired.ENDED]
    assert after.contracts == ()


async def test_full_list_repairs_what_was_missed(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        contract_id = await rent(liar.market.context, liar.machine_id)
        await liar.post(workloads=(status(contract_id, WorkloadState.RUNNING, liar.market.clock.now()),))
        known = await known_status(liar.market.context, contract_id)

    assert known is not None
    assert known.state is WorkloadState.RUNNING


async def test_report_makes_offers_and_heartbeat_makes_online(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        message = StatusMessage(1, MessageKind.REPORT, report=machine_report(gpus=4))
        await liar.post(message, revision=3)
        async with liar.market.context.engine.begin() as tx:
            machine = await machines.get(tx, liar.machine_id)

    assert machine is not None
    assert machine.num_gpus == 4
    assert machine.last_seen_at == liar.market.clock.now()
    assert machine.applied_revision == 3


async def add_task(liar: Liar, task_id: str, machine_id: int, deadline_s: float = 60) -> None:
    now = liar.market.clock.now()
    request = TaskRequest(task_id, Verb.LOGS, 1, now + timedelta(seconds=deadline_s))
    async with liar.market.context.engine.begin() as tx:
        await tx.execute(
            sa.insert(tables.tasks).values(
                task_id=task_id, machine_id=machine_id, document=document.encode(request), created_at=now.timestamp()
            )
        )
        await machines.bump(tx, machine_id)


async def kept_result(liar: Liar, task_id: str) -> TaskResult | None:
    async with liar.market.context.engine.begin() as tx:
        text = await tx.scalar(sa.select(tables.tasks.c.result).where(tables.tasks.c.task_id == task_id))
    return document.decode(TaskResult, text) if text else None


async def test_task_is_offered_until_it_has_a_result(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        await add_task(liar, "task-1", liar.machine_id)
        await add_task(liar, "late", liar.machine_id, deadline_s=-1)
        offered = await liar.look()
        bell = liar.market.context.task_bells["task-1"] = asyncio.Event()
        done = await liar.send("PUT", liar.path("tasks/task-1/result"), TaskResult("first"))
        again = await liar.send("PUT", liar.path("tasks/task-1/result"), TaskResult("second"))
        later = await liar.look()
        kept = await kept_result(liar, "task-1")

    assert offered is not None
    assert later is not None
    assert [task.task_id for task in offered.tasks] == ["task-1"]
    assert (done.status, again.status) == (204, 204)
    assert bell.is_set()
    assert later.tasks == ()
    assert kept == TaskResult("first")


async def test_result_for_another_machines_task_is_refused(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        other = await other_machine(liar)
        await add_task(liar, "theirs", other.machine_id)
        reply = await liar.send("PUT", liar.path("tasks/theirs/result"), TaskResult("lie"))
        kept = await kept_result(liar, "theirs")

    assert (reply.status, reply.code) == (404, "task_unknown")
    assert kept is None


async def test_large_result_is_cut_with_a_notice(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        await add_task(liar, "big", liar.machine_id)
        text = "ä" * TASK_RESULT_MAX_BYTES + "end"
        reply = await liar.send("PUT", liar.path("tasks/big/result"), TaskResult(text))
        kept = await kept_result(liar, "big")

    assert reply.status == 204
    assert kept is not None
    assert len(kept.text.encode()) <= TASK_RESULT_MAX_BYTES
    assert kept.text.startswith(CUT)
    assert kept.text.endswith("end")


async def test_registry_login_is_for_the_machine_of_the_contract(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        context = liar.market.context
        other = await other_machine(liar)
        mine, theirs = await rent(context, liar.machine_id), await rent(context, other.machine_id)
        plain = await rent(context, liar.machine_id)
        login = RegistryLoginReply("r.example", "me", "hunter2")
        sealed = sealing.seal(context.signing_key, document.encode(login).encode())
        async with context.engine.begin() as tx:
            where = tables.contracts.c.id.in_([mine, theirs])
            await tx.execute(sa.update(tables.contracts).where(where).values(image_login=sealed))
        given = await liar.send("POST", liar.path(f"contracts/{mine}/registry-login"))
        refused = await liar.send("POST", liar.path(f"contracts/{theirs}/registry-login"))
        none = await liar.send("POST", liar.path(f"contracts/{plain}/registry-login"))
        await destroy(context, liar.machine_id, mine, liar.market.clock.now())
        over = await liar.send("POST", liar.path(f"contracts/{mine}/registry-login"))

    assert document.decode(RegistryLoginReply, given.body) == login
    assert (refused.status, refused.code) == (404, "contract_unknown")
    assert b"hunter2" not in refused.body
    assert none.code == over.code == "login_unknown"
