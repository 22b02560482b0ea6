"""Orders of speed tests over the local API."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.client import LocalClient, LocalError
from kaalia.model.speed import SpeedOrder
from kaalia.store import contracts, speed, workloads
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.wire.local import SpeedWish
from tests.api.conftest import Local, serving
from tests.support.builders import build_contract, build_speed, build_status
from tests.support.clock import START


async def test_an_order_is_durable_and_rings_and_a_second_one_is_the_same(local: Local) -> None:
    await local.database.transaction(lambda tx: speed.put_result(tx, build_speed()))
    bell = local.changes.subscribe(Topic.SPEED)

    before = await asyncio.to_thread(local.client.order_speed, SpeedWish("198.51.100.4:8091", "a secret"))
    again = await asyncio.to_thread(local.client.order_speed, SpeedWish())

    assert (before.found, before.is_under_way) == (build_speed(), False)
    assert again.is_under_way
    assert bell.is_set()
    assert await local.database.read(speed.get_order) == SpeedOrder(START, "198.51.100.4:8091", "a secret")


async def test_while_tenants_run_the_owner_must_insist(local: Local) -> None:
    def fill(tx: Transaction) -> None:
        contracts.upsert(tx, build_contract(51), START)
        workloads.put(tx, build_status(51))

    await local.database.transaction(fill)
    with pytest.raises(LocalError) as refused:
        await asyncio.to_thread(local.client.order_speed, SpeedWish())

    assert refused.value.code == "speed_tenants_run"
    assert "--force" in refused.value.problem.remedy
    assert await local.database.read(speed.get_order) is None
    await asyncio.to_thread(local.client.order_speed, SpeedWish(force=True))
    assert await local.database.read(speed.get_order) == SpeedOrder(START, force=True)


async def test_where_it_is_off_only_a_named_peer_is_measured_with(local: Local, tmp_path: Path) -> None:
    path = tmp_path / "off.sock"
    async with serving(path, replace(local.context, measures_speed=False, listening=asyncio.Event())):
        with pytest.raises(LocalError) as refused:
            await asyncio.to_thread(LocalClient(path).order_speed, SpeedWish())
        assert refused.value.code == "speed_off"
        await asyncio.to_thread(LocalClient(path).order_speed, SpeedWish("198.51.100.4:8091", "a secret"))

    assert await local.database.read(speed.get_order) is not None


@pytest.mark.parametrize("peer", ["198.51.100.4", "h:0", "h:99999", ":8091", "http://h:1", "h:1 x", "a b:1", "h:٣"])
async def test_a_peer_that_is_no_place_is_refused(local: Local, peer: str) -> None:
    with pytest.raises(LocalError) as refused:
        await asyncio.to_thread(local.client.order_speed, SpeedWish(peer, "a secret"))

    assert refused.value.code == "speed_peer_invalid"
    assert await local.database.read(speed.get_order) is None
