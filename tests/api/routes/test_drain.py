"""The owner's cordon over the local API."""

import asyncio
from datetime import datetime, timedelta

import pytest

from kaalia.api import status
from kaalia.client import LocalError
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.maintenance import Window
from kaalia.model.workload import WorkloadState
from kaalia.store import contracts, enrolment, maintenance, workloads
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire.local import DrainStatus, Holder
from tests.api.conftest import Local
from tests.support.builders import build_contract, build_status
from tests.support.clock import START

HOUR = timedelta(hours=1)


async def drain(local: Local) -> DrainStatus:
    return await asyncio.to_thread(local.client.drain)


async def cordon(local: Local, until_at: datetime | None = None) -> DrainStatus:
    return await asyncio.to_thread(local.client.cordon, until_at)


def rented(tx: Transaction) -> None:
    enrolment.put(tx, enrolment.Enrolment("https://market.example", 12, {"k": "x"}, START))
    contracts.upsert(tx, build_contract(51), START)
    contracts.upsert(tx, build_contract(52), START)
    contracts.upsert(tx, build_contract(53, kind=ContractKind.INTERRUPTIBLE, end_at=None), START)
    workloads.put(tx, build_status(51))
    workloads.put(tx, build_status(53, state=WorkloadState.STOPPED))


def ended(tx: Transaction) -> None:
    for number in (51, 53):
        workloads.put(tx, build_status(number, state=WorkloadState.ENDED))


def obey(tx: Transaction) -> None:
    stored = maintenance.get_cordon(tx)
    assert stored is not None
    maintenance.obey_cordon(tx, stored.cordon, START)


async def test_without_a_wish_nothing_is_drained(local: Local) -> None:
    assert await drain(local) == DrainStatus(START, None, is_in_force=False, is_vacant=True, holders=())


async def test_a_cordon_tells_what_holds_the_machine_as_its_renters_see_it(local: Local) -> None:
    await local.database.transaction(rented)
    found = await cordon(local)

    assert found.cordon is not None
    assert (found.cordon.placed_at, found.cordon.until_at) == (START, None)
    assert not found.is_vacant
    kind, states = ContractKind, WorkloadState
    desired = build_contract().desired
    assert found.holders == (
        Holder(51, kind.ON_DEMAND, states.RUNNING, "running", desired, START + timedelta(days=10)),
        Holder(53, kind.INTERRUPTIBLE, states.STOPPED, "stopped", desired, None),
    )


async def test_vacant_means_that_the_reconciler_has_taken_the_cordon_in(local: Local) -> None:
    await local.database.transaction(rented)
    await cordon(local)
    await local.database.transaction(ended)
    before = await drain(local)
    await local.database.transaction(obey)
    after = await drain(local)

    assert (before.holders, before.is_in_force, before.is_vacant) == ((), False, False)
    assert (after.holders, after.is_in_force, after.is_vacant) == ((), True, True)


async def test_a_machine_that_nobody_rents_out_is_vacant_at_once(local: Local) -> None:
    assert (await cordon(local)).is_vacant


async def test_another_date_keeps_what_was_done_about_the_cordon(local: Local) -> None:
    await local.database.transaction(rented)
    await cordon(local, START + HOUR)
    await local.database.transaction(obey)
    local.clock.advance(60)
    later = await cordon(local, START + 2 * HOUR)
    local.clock.advance(2 * 3600)
    over = await drain(local)
    again = await cordon(local)

    assert later.cordon is not None
    assert (later.cordon.placed_at, later.cordon.until_at, later.is_in_force) == (START, START + 2 * HOUR, True)
    assert (over.cordon, over.is_in_force) == (None, False)
    assert again.cordon is not None
    assert (again.cordon.until_at, again.is_in_force) == (None, False)


async def test_lifting_twice_is_lifting_once(local: Local) -> None:
    await cordon(local)

    for _ in range(2):
        assert (await asyncio.to_thread(local.client.uncordon)).cordon is None


async def test_wishes_ring_the_reconciler_and_the_heartbeat(local: Local) -> None:
    rings = [local.changes.subscribe(topic) for topic in (Topic.CONTRACTS, Topic.OUTBOX)]
    await cordon(local)
    assert all(bell.is_set() for bell in rings)
    for bell in rings:
        bell.clear()
    await asyncio.to_thread(local.client.uncordon)
    assert all(bell.is_set() for bell in rings)


@pytest.mark.parametrize("at", [START, START - HOUR])
async def test_a_past_date_is_refused_and_changes_nothing(local: Local, at: datetime) -> None:
    with pytest.raises(LocalError) as caught:
        await cordon(local, at)

    assert caught.value.code == "drain_until_past"
    assert "it is past" in caught.value.problem.message
    assert (await drain(local)).cordon is None


@pytest.mark.parametrize("body", [b"[]", b'{"until_at": 5}', b'{"until_at": "2026-12-01T00:00:00"}', b"{"])
async def test_an_order_that_cannot_be_read_is_refused(local: Local, body: bytes) -> None:
    code, raw = await asyncio.to_thread(local.client._exchange, "/v1/drain", "PUT", body)

    assert code == 400
    assert b"drain_invalid" in raw


async def test_the_status_tells_cordon_and_maintenance(local: Local) -> None:
    coming, past = Window(START + HOUR, START + 2 * HOUR, START), Window(START - 2 * HOUR, START - HOUR, START)
    await local.database.transaction(lambda tx: maintenance.put_windows(tx, [coming, past]))
    await cordon(local, START + HOUR)
    found = await asyncio.to_thread(local.client.status)
    local.clock.advance(3600)
    later = await asyncio.to_thread(local.client.status)

    assert found.cordon is not None
    assert found.maintenances == (coming,)
    assert "draining until 2026-01-01 13:00 UTC" in status.line(found)
    assert later.cordon is None
    assert "draining" not in status.line(later)
