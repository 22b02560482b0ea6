import asyncio
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts.contract import Contract, Desired
from kaalia.marketplace import jobs
from tests.marketplace.renting import contract_of, hear_of, rent, revision_of
from tests.marketplace.support import Market, open_market, statements
from tests.support.machines import machine_report

DAY_S = 86400


async def relist(market: Market, machine_id: int, days: float | None, **terms: Any) -> int:
    end_date = None if days is None else market.clock.now().timestamp() + days * DAY_S
    body = {"machine": machine_id, "end_date": end_date, **terms}
    answer = await market.host.call("PUT", "/api/v0/machines/create_asks/", body)
    assert answer.status == 200, answer.body
    extended: int = answer.body["extended"]
    return extended


async def days_left(market: Market, contract: Contract) -> float | None:
    return None if contract.end_at is None else (contract.end_at - market.clock.now()).total_seconds() / DAY_S


async def test_a_later_end_at_the_same_price_or_less_extends(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await relist(market, machine_id, 10)
        instance_id = await rent(market, num_gpus=1)
        revision = await revision_of(market)

        assert await relist(market, machine_id, 20) == 1
        assert await days_left(market, await contract_of(market, instance_id)) == 20
        assert await revision_of(market) > revision
        assert await relist(market, machine_id, 30, price_gpu=0.3) == 1
        contract = await contract_of(market, instance_id)
        assert await days_left(market, contract) == 30
        assert str(contract.price_usd_per_hour) == "0.4"
        assert contract.terms is not None
        assert (contract.terms.end_at, str(contract.terms.price_gpu_per_hour)) == (contract.end_at, "0.4")


async def test_a_higher_price_or_an_earlier_end_touches_no_contract(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await relist(market, machine_id, 10)
        instance_id = await rent(market, num_gpus=1)

        assert await relist(market, machine_id, 20, price_gpu=0.5) == 0
        assert await relist(market, machine_id, 20, price_gpu=0.4, price_disk=9) == 0
        assert await relist(market, machine_id, 5, price_disk=0.1) == 0
        assert await days_left(market, await contract_of(market, instance_id)) == 10


async def test_the_rolling_duration_replaces_the_end_date(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=1), duration="10 days")
        first = (await market.search())[0]["duration"]
        market.clock.advance(60)
        later = (await market.search())[0]["duration"]
        await relist(market, machine_id, 3)
        fixed = (await market.search())[0]["duration"]
        market.clock.advance(DAY_S)
        await jobs.once(market.context)
        still = (await market.search())[0]["duration"]

    assert (first, later) == (10 * DAY_S, 10 * DAY_S - 60)
    assert (fixed, still) == (3 * DAY_S, 2 * DAY_S)


async def test_a_duration_moves_the_end_daily_and_takes_contracts_along(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2), duration="10 days")
        market.clock.advance(3600)
        await hear_of(market)
        instance_id = await rent(market, num_gpus=1)
        rented = await days_left(market, await contract_of(market, instance_id))

        market.clock.advance(DAY_S - 3601)
        await jobs.once(market.context)
        early = await days_left(market, await contract_of(market, instance_id))
        revision = await revision_of(market)
        market.clock.advance(1)
        await jobs.once(market.context)
        await hear_of(market)
        moved = await days_left(market, await contract_of(market, instance_id))
        [row] = (await market.host.call("GET", "/api/v0/machines")).body["machines"]
        offers = await market.search()
        now = market.clock.now().timestamp()

        assert rented == 10 - 1 / 24
        assert early == pytest.approx(9, abs=1e-4)
        assert moved == 10
        assert await revision_of(market) > revision
        assert (row["end_date"], row["duration"], row["rolling_duration"]) == (now + 10 * DAY_S, *[10 * DAY_S] * 2)
        assert row["client_end_date"] == row["end_date"]
        assert {offer["end_date"] for offer in offers} == {row["end_date"]}
        assert {offer["duration"] for offer in offers} == {10 * DAY_S}
        assert machine_id == row["id"]


async def test_a_marketplace_that_was_away_moves_the_end_once(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1), duration="2 days")
        market.clock.advance(5 * DAY_S)
        await hear_of(market)
        over = [offer["rentable"] for offer in await market.search()]
        await jobs.once(market.context)
        revision = await revision_of(market)
        await jobs.once(market.context)
        [offer] = await market.search()

        assert over == [False]
        assert (offer["rentable"], offer["duration"]) == (True, 2 * DAY_S)
        assert await revision_of(market) == revision


async def test_a_rolling_end_extends_nothing_at_a_higher_price(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2), duration="10 days")
        instance_id = await rent(market, num_gpus=1)
        assert await relist(market, machine_id, None, price_gpu=0.5) == 0

        market.clock.advance(DAY_S)
        await jobs.once(market.context)
        assert await days_left(market, await contract_of(market, instance_id)) == 9
        assert await relist(market, machine_id, None, price_gpu=0.4) == 1
        assert await days_left(market, await contract_of(market, instance_id)) == 10


async def test_a_prepaid_contract_goes_along_at_an_unchanged_price(tmp_path: Path) -> None:
    """These numbers made it dearer in the last of 28 digits."""
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2), duration="10 days", credit_discount_max=0.5)
        instance_id = await rent(market, num_gpus=1)
        done = await market.renter.call("PUT", f"/api/v0/instances/prepay/{instance_id}/", {"amount": 605})
        assert done.status == 200, done.body
        market.clock.advance(DAY_S)
        await jobs.once(market.context)
        asked = await market.renter.call("GET", "/api/v0/instances/pending-price-increases/")

        assert await days_left(market, await contract_of(market, instance_id)) == 10
        assert asked.body["pending_price_increases"] == []


async def test_terms_are_frozen_with_the_end_that_was_promised(tmp_path: Path) -> None:
    """A rolling duration goes on rolling; the contract's end does not."""
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=1), duration="10 days")
        instance_id = await rent(market, num_gpus=1)
        agreed = await contract_of(market, instance_id)
        await relist(market, machine_id, 3, price_gpu=9)
        await market.host.call("DELETE", f"/api/v0/machines/{machine_id}/asks/", {})

        assert await contract_of(market, instance_id) == agreed
        assert agreed.terms is not None
        assert (agreed.terms.end_at, agreed.terms.rolling_duration_s) == (agreed.end_at, None)
        assert await days_left(market, agreed) == 10
        assert str(agreed.terms.price_gpu_per_hour) == "0.4"


async def test_cleanup_deletes_what_expired_two_days_ago_and_nothing_else(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await relist(market, machine_id, 1)
        old = await rent(market, num_gpus=1)
        await relist(market, machine_id, 90, price_gpu=0.5)
        running = await rent(market, num_gpus=1)
        host = market.client(market.host)

        market.clock.advance(3 * DAY_S - 1)
        early = await host.json("cleanup", "machine", str(machine_id))
        market.clock.advance(1)
        revision = await revision_of(market)
        due = await host.json("cleanup", "machine", str(machine_id))
        again = await host.json("cleanup", "machine", str(machine_id))
        stranger = await market.renter.call("PUT", f"/api/v0/machines/{machine_id}/cleanup/", {})

        assert (early["num_deleted"], due["num_deleted"], again["num_deleted"]) == (0, 1, 0)
        assert due["success"]
        assert (await contract_of(market, old)).desired is Desired.ENDED
        assert (await contract_of(market, running)).desired is Desired.RUNNING
        assert await revision_of(market) > revision
        assert stranger.status == 404


async def test_the_jobs_run_by_themselves(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1), duration="10 days")
        revision = await revision_of(market)
        market.clock.advance(DAY_S)
        running = asyncio.create_task(jobs.run(market.context))
        while await revision_of(market) == revision:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        [row] = (await market.host.call("GET", "/api/v0/machines")).body["machines"]
        assert row["duration"] == 10 * DAY_S


async def test_a_machine_whose_day_has_not_come_is_left_alone(tmp_path: Path) -> None:
    """Every ten seconds all of them are looked at: one look, not a transaction for each."""
    async with open_market(tmp_path) as market:
        await jobs.once(market.context)  # the first one also notes that the marketplace is there
        with statements(market.context) as without:
            await jobs.once(market.context)
        for _ in range(3):
            await market.list_machine(machine_report(gpus=1), duration="10 days")
        with statements(market.context) as resting:
            await jobs.once(market.context)
        market.clock.advance(DAY_S)
        with statements(market.context) as due:
            await jobs.once(market.context)

    assert len(resting) == len(without)
    assert len(due) > len(resting)
