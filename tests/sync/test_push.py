import random
from datetime import timedelta
from pathlib import Path

from kaalia.marketplace import machines
from kaalia.marketplace.machines import MachineRecord
from kaalia.model.workload import WorkloadState
from kaalia.store import database as state
from kaalia.store import outbox
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.sync.backoff import Backoff
from kaalia.sync.push import BATCH_MAX, FULL_EVERY_S, Push, collect
from kaalia.wire import document
from tests.marketplace.support import Market
from tests.support.machines import machine_report
from tests.sync.support import Machine, known_status, open_pair, rent, status


def push_of(host: Machine, heartbeat_s: float = 30) -> Push:
    chance = random.Random(1)
    bell = host.changes.subscribe(Topic.OUTBOX)
    return Push(host.database, host.client, host.clock, bell, Backoff(chance), chance, heartbeat_s)


async def record(market: Market, host: Machine) -> MachineRecord:
    async with market.context.engine.begin() as tx:
        machine = await machines.get(tx, host.member.machine_id)
    assert machine is not None
    return machine


async def test_heartbeat_goes_without_news(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        more = await push_of(host).once()
        machine = await record(market, host)

    assert not more
    assert machine.last_seen_at == market.clock.now()


async def test_acknowledged_rows_leave_the_outbox(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        await host.tell(status(contract_id, WorkloadState.PULLING, host.clock.now()))
        await host.tell(status(contract_id, WorkloadState.RUNNING, host.clock.now() + timedelta(seconds=1)))
        await push_of(host).once()
        known = await known_status(market.context, contract_id)
        left = await host.pending()

    assert left == 0
    assert known is not None
    assert known.state is WorkloadState.RUNNING


async def test_long_outbox_goes_in_batches_in_order(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        count = BATCH_MAX + 5

        def fill(tx: Transaction) -> None:
            for number in range(count):
                told = status(contract_id, WorkloadState.PULLING, host.clock.now(), status_msg=str(number))
                outbox.add(tx, "workload", document.encode(told), host.clock.now())

        await host.database.transaction(fill)
        push = push_of(host)
        first = await push.once()
        after_first = await known_status(market.context, contract_id)
        second = await push.once()
        after_second = await known_status(market.context, contract_id)

    assert (first, second) == (True, False)
    assert after_first is not None
    assert after_first.status_msg == str(BATCH_MAX - 1)
    assert after_second is not None
    assert after_second.status_msg == str(count - 1)


async def test_full_list_goes_first_then_every_five_minutes_and_after_an_outage(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        await host.tell(status(contract_id, WorkloadState.RUNNING, host.clock.now()))
        await host.database.transaction(lambda tx: outbox.acknowledge(tx, 1))
        stream_id = await host.database.transaction(state.stream_id)
        now = host.clock.now()
        full = await host.database.read(lambda tx: collect(tx, stream_id, now, is_full_due=True))
        lean = await host.database.read(lambda tx: collect(tx, stream_id, now, is_full_due=False))
        push = push_of(host)
        await push.once()
        known = await known_status(market.context, contract_id)

    assert full.post.workloads is not None
    assert [told.contract_id for told in full.post.workloads] == [contract_id]
    assert lean.post.workloads is None
    assert FULL_EVERY_S == 300
    assert known is not None
    assert known.state is WorkloadState.RUNNING


async def test_only_the_newest_report_is_sent(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):

        def fill(tx: Transaction) -> None:
            for gpus in (8, 4, 2):
                outbox.add(tx, "report", document.encode(machine_report(gpus=gpus)), host.clock.now())

        await host.database.transaction(fill)
        batch = await host.database.read(lambda tx: collect(tx, "s", host.clock.now(), is_full_due=False))
        await push_of(host).once()
        machine = await record(market, host)
        left = await host.pending()

    assert [message.seq for message in batch.post.messages] == [3]
    assert machine.num_gpus == 2
    assert left == 0


async def test_unreadable_row_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        now = host.clock.now()
        await host.database.transaction(lambda tx: outbox.add(tx, "workload", "{}", now))
        await host.tell(status(contract_id, WorkloadState.RUNNING, now))
        await host.database.transaction(lambda tx: outbox.add(tx, "song", "la", now))
        push = push_of(host)
        await push.once()
        known = await known_status(market.context, contract_id)
        left = await host.pending()
        await host.database.transaction(lambda tx: outbox.add(tx, "song", "la", now))
        await push.once()
        left_alone = await host.pending()

    assert known is not None
    assert (left, left_alone) == (0, 0)


async def test_restored_state_starts_a_new_stream(tmp_path: Path) -> None:
    """An older copy of the database would number its messages as the marketplace has seen them already."""
    async with open_pair(tmp_path) as (market, host):
        contract_id = await rent(market.context, host.member.machine_id)
        push = push_of(host)
        for number in range(3):
            told = status(contract_id, WorkloadState.PULLING, host.clock.now(), status_msg=str(number))
            await host.tell(told)
        await push.once()
        old_stream = await host.database.transaction(state.stream_id)
        await host.database.transaction(lambda tx: tx.execute("UPDATE sqlite_sequence SET seq = 0"))
        await host.tell(status(contract_id, WorkloadState.RUNNING, host.clock.now() + timedelta(seconds=5)))
        again = await push.once()
        await push.once()
        new_stream = await host.database.transaction(state.stream_id)
        known = await known_status(market.context, contract_id)
        left = await host.pending()

    assert again
    assert new_stream != old_stream
    assert known is not None
    assert known.state is WorkloadState.RUNNING
    assert left == 0


async def test_heartbeat_tells_what_was_applied(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host):
        before = await host.database.read(lambda tx: collect(tx, "s", host.clock.now(), is_full_due=False))

    assert (before.post.epoch, before.post.revision) == (0, 0)
