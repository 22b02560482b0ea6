"""Each noun comes back from its rows as it went in."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from kaalia.contracts.offer import Listing
from kaalia.errors import Problem
from kaalia.model.machine import Missing
from kaalia.model.workload import WorkloadState
from kaalia.store import contracts, enrolment, intents, machine, outbox, tasks, workloads
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from kaalia.store.enrolment import AcceptedSnapshot, Enrolment
from kaalia.wire.protocol import TaskRequest, Verb
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import START

LATER = START + timedelta(minutes=1)


async def test_contracts_keep_their_newest_word(store: Database) -> None:
    await store.transaction(lambda tx: contracts.upsert(tx, build_contract(52), START))
    await store.transaction(lambda tx: contracts.upsert(tx, build_contract(51), START, "local"))
    newer = build_contract(52, generation=2, price_usd_per_hour=Decimal("0.123456789012"), end_at=None)
    await store.transaction(lambda tx: contracts.upsert(tx, newer, LATER))

    first, second = await store.read(contracts.all_contracts)

    assert (first.contract, first.origin) == (build_contract(51), "local")
    assert second.contract == newer


async def test_a_missing_contract_counts_revisions_until_it_is_mentioned_again(store: Database) -> None:
    await store.transaction(lambda tx: contracts.upsert(tx, build_contract(), START))
    await store.transaction(lambda tx: contracts.mark_missing(tx, 51, START))
    await store.transaction(lambda tx: contracts.mark_missing(tx, 51, LATER))

    (missing,) = await store.read(contracts.all_contracts)
    assert (missing.missing_since, missing.missing_revisions) == (START, 2)

    await store.transaction(lambda tx: contracts.upsert(tx, build_contract(), LATER))
    (back,) = await store.read(contracts.all_contracts)
    assert (back.missing_since, back.missing_revisions) == (None, 0)

    await store.transaction(lambda tx: contracts.delete(tx, 51))
    assert await store.read(contracts.all_contracts) == ()


@pytest.mark.parametrize("state", WorkloadState)
async def test_statuses_come_back_whole(store: Database, state: WorkloadState) -> None:
    status = build_status(state=state, exit_code=137, problem=Problem("a_code", "cannot", "remedy", "evidence"))
    await store.transaction(lambda tx: workloads.put(tx, build_status()))
    await store.transaction(lambda tx: workloads.put(tx, status))

    assert await store.read(workloads.all_workloads) == {51: status}
    assert await store.read(lambda tx: workloads.get(tx, 51)) == status

    await store.transaction(lambda tx: workloads.delete(tx, 51))
    assert await store.read(lambda tx: workloads.get(tx, 51)) is None


async def test_intents_are_open_until_closed(store: Database) -> None:
    await store.transaction(lambda tx: intents.open_intent(tx, "launch", 51, 1, START))
    await store.transaction(lambda tx: intents.open_intent(tx, "restart", 52, 3, LATER, restart_count=4))
    await store.transaction(lambda tx: intents.close_all(tx, 51, "done", LATER))

    (still,) = await store.read(intents.open_intents)
    assert (still.kind, still.contract_id, still.generation, still.opened_at) == ("restart", 52, 3, LATER)
    assert still.restart_count == 4

    await store.transaction(lambda tx: intents.close_all(tx, 52, "looked at", LATER))
    assert await store.read(intents.open_intents) == ()
    (step,) = await store.read(lambda tx: intents.history(tx, 51, 10))
    assert (step.kind, step.outcome, step.closed_at) == ("launch", "done", LATER)


async def test_an_intent_is_closed_once(store: Database) -> None:
    await store.transaction(lambda tx: intents.open_intent(tx, "launch", 51, 1, START))
    await store.transaction(lambda tx: intents.close_all(tx, 51, "done", START))
    await store.transaction(lambda tx: intents.close_all(tx, 51, "again", LATER))

    (step,) = await store.read(lambda tx: intents.history(tx, 51, 10))
    assert step.outcome == "done"


async def test_old_history_makes_room_a_little_at_a_time_and_open_intents_stay(store: Database) -> None:
    def fill(tx: Transaction) -> None:
        intents.open_intent(tx, "launch", 99, 1, START)
        for _ in range(3 * intents.PRUNED_AT_ONCE):
            intents.open_intent(tx, "stop", 51, 1, START)
        intents.close_all(tx, 51, "done", START)
        intents.open_intent(tx, "start", 51, 1, LATER)
        intents.close_all(tx, 51, "done", LATER)

    def left(tx: Transaction) -> int:
        return len(intents.history(tx, 51, 1000))

    await store.transaction(fill)
    week = START + intents.KEPT

    await store.transaction(lambda tx: intents.open_intent(tx, "launch", 52, 1, week))
    assert await store.read(left) == 3 * intents.PRUNED_AT_ONCE + 1

    for opened in range(1, 5):
        await store.transaction(lambda tx: intents.open_intent(tx, "launch", 52, 1, week + timedelta(seconds=1)))
        assert await store.read(left) == max(1, (3 - opened) * intents.PRUNED_AT_ONCE + 1)
    assert {one.contract_id for one in await store.read(intents.open_intents)} == {52, 99}


async def test_messages_leave_in_order_when_acknowledged_and_numbers_never_return(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db", Changes())
    await database.open()
    for body in ("a", "b", "c"):
        await database.transaction(partial(outbox.add, kind="workload", body=body, now=START))
    await database.transaction(lambda tx: outbox.acknowledge(tx, 2))
    assert [(m.seq, m.body) for m in await database.read(lambda tx: outbox.pending(tx, 9))] == [(3, "c")]
    await database.transaction(lambda tx: outbox.acknowledge(tx, 3))
    await database.close()

    again = Database(tmp_path / "state.db", Changes())
    await again.open()
    await again.transaction(lambda tx: outbox.add(tx, "report", "d", START))
    await again.transaction(lambda tx: outbox.add(tx, "report", "e", START))

    assert [m.seq for m in await again.read(lambda tx: outbox.pending(tx, 1))] == [4]
    await again.close()


async def test_tasks_are_taken_once(store: Database) -> None:
    task = TaskRequest("t-1", Verb.LOGS, 51, LATER, tail=7, filter="x")
    await store.transaction(lambda tx: tasks.add_new(tx, task, START))
    await store.transaction(lambda tx: tasks.add_new(tx, replace(task, tail=9), START))

    assert await store.transaction(tasks.take_new) == (task,)
    assert await store.transaction(tasks.take_new) == ()

    await store.transaction(lambda tx: tasks.add_new(tx, task, LATER))
    assert await store.transaction(tasks.take_new) == ()

    await store.transaction(lambda tx: tasks.forget_older(tx, LATER))
    await store.transaction(lambda tx: tasks.add_new(tx, task, LATER))
    assert await store.transaction(tasks.take_new) == (task,)


async def test_a_task_that_a_daemon_took_and_did_not_finish_is_known(store: Database) -> None:
    for number, verb in enumerate((Verb.SNAPSHOT, Verb.SNAPSHOT, Verb.LOGS)):
        task = TaskRequest(f"t-{number}", verb, 51, LATER)
        await store.transaction(lambda tx, task=task: tasks.add_new(tx, task, START))  # type: ignore[misc]
    assert await store.read(lambda tx: tasks.cut_off(tx, Verb.SNAPSHOT)) == (), "not begun: it can be"

    await store.transaction(tasks.take_new)
    await store.transaction(lambda tx: tasks.finish(tx, "t-0"))

    assert [one.task_id for one in await store.read(lambda tx: tasks.cut_off(tx, Verb.SNAPSHOT))] == ["t-1"]


async def test_the_report_and_the_listing_come_back_whole(store: Database) -> None:
    report = build_report(gpus=8, missing=(Missing("disk.model", "no such file"),))
    listing = Listing(Decimal("0.35"), min_gpu=2, end_at=LATER, price_min_bid_per_hour=Decimal("0.1"))
    assert await store.read(machine.get_report) is None
    assert await store.read(machine.get_listing) is None

    await store.transaction(lambda tx: machine.put_report(tx, build_report()))
    await store.transaction(lambda tx: machine.put_report(tx, report))
    await store.transaction(lambda tx: machine.put_listing(tx, listing))
    assert await store.read(machine.get_report) == report
    assert await store.read(machine.get_listing) == listing

    await store.transaction(lambda tx: machine.put_listing(tx, None))
    assert await store.read(machine.get_listing) is None


async def test_enrolment_and_the_accepted_snapshot_come_back_whole(store: Database) -> None:
    member = Enrolment("https://market.example", 77, {"k1": "AAAA"}, START)
    assert await store.read(enrolment.get) is None
    assert await store.read(enrolment.get_snapshot) is None

    await store.transaction(lambda tx: enrolment.put(tx, member))
    old = AcceptedSnapshot(1, 4, LATER, "{}", START)
    new = AcceptedSnapshot(2, 1, LATER, '{"payload": "x"}', LATER)
    await store.transaction(lambda tx: enrolment.put_snapshot(tx, old))
    await store.transaction(lambda tx: enrolment.put_snapshot(tx, new))

    assert await store.read(enrolment.get) == member
    assert await store.read(enrolment.get_snapshot) == new
