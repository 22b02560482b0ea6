import asyncio
from decimal import Decimal

import pytest

from kaalia.client import LocalError
from kaalia.model.workload import PortBinding, Protocol, WorkloadState
from kaalia.store import contracts, workloads
from kaalia.store.database import Transaction
from tests.api.conftest import Local
from tests.support.builders import build_contract, build_status
from tests.support.clock import START


def two_contracts(tx: Transaction) -> None:
    contracts.upsert(tx, build_contract(52), START)
    contracts.upsert(tx, build_contract(51), START)
    workloads.put(tx, build_status(51))


async def test_contracts_come_by_id_with_their_workloads(local: Local) -> None:
    await local.database.transaction(two_contracts)

    first, second = await asyncio.to_thread(local.client.contracts)

    assert (first.contract_id, first.state, first.price_usd_per_hour) == (51, WorkloadState.RUNNING, Decimal("0.40"))
    assert first.ports == (PortBinding(8080, 8080, 40011, Protocol.TCP),)
    assert (second.contract_id, second.state) == (52, WorkloadState.WAITING)


async def test_one_contract_is_shown(local: Local) -> None:
    await local.database.transaction(two_contracts)

    assert (await asyncio.to_thread(local.client.contract, 52)).contract_id == 52
    with pytest.raises(LocalError) as caught:
        await asyncio.to_thread(local.client.contract, 53)
    assert caught.value.code == "no_such_contract"


async def test_a_tenants_secrets_are_not_shown(local: Local) -> None:
    await local.database.transaction(two_contracts)

    view = await asyncio.to_thread(local.client.contract, 51)

    assert view.env_names == ("CONTAINER_API_KEY", "MODE")
    assert "hush" not in repr(view)


async def test_a_contract_that_the_marketplace_no_longer_mentions_says_since_when(local: Local) -> None:
    await local.database.transaction(two_contracts)
    await local.database.transaction(lambda tx: contracts.mark_missing(tx, 52, START))

    assert (await asyncio.to_thread(local.client.contract, 52)).missing_since == START
