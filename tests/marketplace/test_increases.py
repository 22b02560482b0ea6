"""Price increases: what is put to renters, what their answers do, and what is charged then."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts import admission
from kaalia.contracts.admission import House
from kaalia.contracts.amendment import amended
from kaalia.contracts.policy import OPEN
from kaalia.marketplace import jobs, machines
from kaalia.model.metering import Edge, Meter
from tests.marketplace.renting import contract_of, hear_of, rent, revision_of, show
from tests.marketplace.support import Answer, Api, Market, open_market
from tests.marketplace.test_cli_billing import edge, post
from tests.support.machines import machine_report

DAY_S = 86400
SHOW = "/api/v0/instances/pending-price-increases/"


async def relist(market: Market, days: float | None = None, **terms: Any) -> dict[str, Any]:
    end_date = None if days is None else market.clock.now().timestamp() + days * DAY_S
    body = {"machine": 1, "end_date": end_date, **terms}
    answer = await market.host.call("PUT", "/api/v0/machines/create_asks/", body)
    assert answer.status == 200, answer.body
    reply: dict[str, Any] = answer.body
    return reply


async def rented(market: Market, **body: Any) -> int:
    """One GPU of two for ten days, at 0.4 $/h and 0.1 $/GB/month."""
    await market.list_machine(machine_report(gpus=2), price_min_bid=0.1)
    await relist(market, 10)
    return await rent(market, num_gpus=1, **body)


async def pending(market: Market, by: Api | None = None) -> list[dict[str, Any]]:
    answer = await (by or market.renter).call("GET", SHOW)
    assert answer.status == 200, answer.body
    rows: list[dict[str, Any]] = answer.body["pending_price_increases"]
    assert answer.body["count"] == len(rows)
    assert answer.body["truncated"] is False
    return rows


async def answer(market: Market, verb: str, number: Any, by: Api | None = None, **more: Any) -> Answer:
    body = {"pending_price_increase_id": number, **more}
    return await (by or market.renter).call("PUT", f"/api/v0/instances/{verb}-price-increase/", body)


async def test_a_higher_price_is_put_to_the_renter_and_touches_nothing(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        before = await contract_of(market, instance_id)
        now = market.clock.now().timestamp()
        reply = await relist(market, 20, price_gpu=0.5, price_inetu=0.01)
        [row] = await pending(market)

        assert (reply["extended"], reply["pending_price_increases"]) == (0, 1)
        assert await contract_of(market, instance_id) == before
        assert await pending(market, market.host) == []
        assert row.pop("pending_price_increase_id") > 0
        assert row == {
            "contract_id": instance_id,
            "host_id": 1,
            "old_gpu_costpersec": pytest.approx(0.4 / 3600),
            "new_gpu_costpersec": pytest.approx(0.5 / 3600),
            "old_disk_ram_costpersec": pytest.approx(0.1 / 730 / 3600),
            "new_disk_ram_costpersec": None,
            "old_bwu_cost": 0.0,
            "new_bwu_cost": 0.01,
            "old_bwd_cost": 0.0,
            "new_bwd_cost": None,
            "old_platform_fee": 0.0,
            "new_platform_fee": None,
            "contract_end_date": now + 10 * DAY_S,
            "ask_end_date": now + 20 * DAY_S,
            "created_at": now,
        }


async def test_an_accepted_increase_moves_the_end_now_and_the_price_at_the_old_end(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        old_end = (await contract_of(market, instance_id)).end_at
        assert old_end is not None
        await relist(market, 20, price_gpu=0.5, price_disk=0.2)
        [row] = await pending(market)
        revision = await revision_of(market)
        number = row["pending_price_increase_id"]
        done = await answer(market, "accept", number)
        agreed = await contract_of(market, instance_id)

        assert (done.status, done.body) == (
            200,
            {"success": True, "pending_price_increase_id": number, "contract_id": instance_id},
        )
        assert agreed.end_at == old_end + timedelta(days=10)
        assert agreed.price_usd_per_hour == Decimal("0.4")
        assert await revision_of(market) > revision
        assert await pending(market) == []

        market.clock.advance(10 * DAY_S - 1)
        await jobs.once(market.context)
        assert (await contract_of(market, instance_id)).price_usd_per_hour == Decimal("0.4")
        market.clock.advance(1)
        revision = await revision_of(market)
        await jobs.once(market.context)
        after = await contract_of(market, instance_id)
        assert (after.price_usd_per_hour, after.end_at) == (Decimal("0.5"), agreed.end_at)
        assert await revision_of(market) > revision
        shown = await show(market, instance_id)
        assert (shown["dph_base"], shown["storage_cost"]) == (0.5, 0.2)


@pytest.mark.parametrize("job_runs", [False, True])
async def test_the_charges_change_to_the_second(tmp_path: Path, job_runs: bool) -> None:
    """Whether or not the marketplace got round to writing the new price into the contract."""
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        await post(market, edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0)))
        await relist(market, 20, price_gpu=0.5)
        await answer(market, "accept", (await pending(market))[0]["pending_price_increase_id"])
        market.clock.advance(10 * DAY_S + 3600)
        if job_runs:
            await jobs.once(market.context)
        end = edge(market, instance_id, Meter.RUN, Edge.END, 1, timedelta(seconds=1))
        await post(market, end, seq=2)
        rows = await charges(market)

    assert [(row["start"], row["end"], row["amount"]) for row in rows] == [
        (rows[0]["start"], rows[0]["start"] + 10 * DAY_S, pytest.approx(240 * 0.4)),
        (rows[0]["start"] + 10 * DAY_S, rows[0]["start"] + 10 * DAY_S + 3599, pytest.approx(3599 / 3600 * 0.5)),
    ]


async def charges(market: Market) -> list[dict[str, Any]]:
    """The lines of the one instance, oldest first."""
    window = '{"day":{"gte":0,"lte":32503680000}}'
    reply = await market.renter.call("GET", f"/api/v0/charges/?select_filters={window}")
    assert reply.status == 200, reply.body
    items: list[dict[str, Any]] = reply.body["results"][0]["items"]
    return items


async def test_without_consent_the_contract_ends_when_it_was_to_end(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        before = await contract_of(market, instance_id)
        await relist(market, 20, price_gpu=0.5)
        [row] = await pending(market)
        rejected = await answer(market, "reject", row["pending_price_increase_id"])
        assert rejected.body == {
            "success": True,
            "pending_price_increase_id": row["pending_price_increase_id"],
            "contract_id": instance_id,
        }

        # The same question is not asked again, another one is.
        await relist(market, 25)
        assert await pending(market) == []
        market.clock.advance(10 * DAY_S)
        await jobs.once(market.context)
        assert await contract_of(market, instance_id) == before
        await relist(market, 25, price_gpu=0.6)
        assert [one["new_gpu_costpersec"] for one in await pending(market)] == [pytest.approx(0.6 / 3600)]


async def test_a_withdrawn_lowered_or_changed_listing_makes_the_answer_stale(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        stale = []

        async def asked() -> None:
            await relist(market, 20, price_gpu=0.5)
            stale.append((await pending(market))[0]["pending_price_increase_id"])

        await asked()
        await market.host.call("DELETE", "/api/v0/machines/1/asks/", {})
        assert await pending(market) == []
        await asked()
        assert (await relist(market, price_gpu=0.4))["extended"] == 1
        assert await pending(market) == []
        await relist(market, 30, price_gpu=0.5)
        stale.append((await pending(market))[0]["pending_price_increase_id"])
        await relist(market, 30, price_gpu=0.6)
        stale.append((await pending(market))[0]["pending_price_increase_id"])
        await relist(market, 25, price_gpu=0.6)
        [shorter] = await pending(market)
        before = await contract_of(market, instance_id)

        for number in stale:
            for verb in ("accept", "reject"):
                refused = await answer(market, verb, number)
                assert (refused.status, refused.body["error"]) == (404, "no_pending_price_increase")
                assert refused.body["msg"].startswith("cannot ")
        assert await contract_of(market, instance_id) == before
        assert shorter["ask_end_date"] == market.clock.now().timestamp() + 25 * DAY_S

        # A later end is no new question; to answer twice, or for somebody else, is stale.
        await relist(market, 40)
        [longer] = await pending(market)
        assert longer["pending_price_increase_id"] == shorter["pending_price_increase_id"]
        assert (await answer(market, "accept", longer["pending_price_increase_id"], market.host)).status == 404
        assert (await answer(market, "accept", longer["pending_price_increase_id"])).status == 200
        assert (await answer(market, "accept", longer["pending_price_increase_id"])).status == 404


async def test_what_was_accepted_stays_and_is_extended_at_its_price(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        await relist(market, 20, price_gpu=0.5)
        await answer(market, "accept", (await pending(market))[0]["pending_price_increase_id"])
        assert (await relist(market, 30))["extended"] == 1
        await market.host.call("DELETE", "/api/v0/machines/1/asks/", {})
        await relist(market, 40, price_gpu=0.7)
        [again] = await pending(market)
        assert again["old_gpu_costpersec"] == pytest.approx(0.5 / 3600)
        await answer(market, "accept", again["pending_price_increase_id"])

        prices = []
        for _ in range(4):
            market.clock.advance(10 * DAY_S - 1)
            await jobs.once(market.context)
            prices.append(str((await contract_of(market, instance_id)).price_usd_per_hour))
            market.clock.advance(1)
            await jobs.once(market.context)
    assert prices == ["0.4", "0.5", "0.5", "0.7"]


async def test_a_bid_follows_the_floor_that_was_accepted(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market, price=0.2)
        assert (await relist(market, 10, price_gpu=0.9))["pending_price_increases"] == 0
        done = await market.host.call("PUT", "/api/v0/machines/1/minbid/", {"client_id": "me", "price": 0.3})
        assert done.status == 200, done.body
        await relist(market, 20)
        [row] = await pending(market)
        assert row["new_gpu_costpersec"] == pytest.approx(0.3 / 3600)
        await answer(market, "accept", row["pending_price_increase_id"])
        for price, status in ((0.25, 200), (0.05, 400)):
            bid = await market.renter.call("PUT", f"/api/v0/instances/bid_price/{instance_id}/", {"price": price})
            assert bid.status == status, bid.body

        market.clock.advance(10 * DAY_S)
        low = await market.renter.call("PUT", f"/api/v0/instances/bid_price/{instance_id}/", {"price": 0.25})
        assert (low.status, low.body["error"]) == (400, "invalid_price")
        await jobs.once(market.context)
        assert (await contract_of(market, instance_id)).price_usd_per_hour == Decimal("0.3")


async def test_a_reserved_instance_keeps_its_discount_and_its_deposit(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        await relist(market, 20, price_gpu=0.8)
        await answer(market, "accept", (await pending(market))[0]["pending_price_increase_id"])
        # Prepaid after the consent: the discount is on the old price until the old end, then on the new one.
        done = await market.renter.call("PUT", f"/api/v0/instances/prepay/{instance_id}/", {"amount": 100})
        assert done.status == 200, done.body
        share = Decimal(1) - Decimal(str(done.body["discount_rate"]))
        early = await contract_of(market, instance_id)
        await post(market, edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0)))
        market.clock.advance(10 * DAY_S)
        await post(market, seq=2)
        await jobs.once(market.context)
        late = await contract_of(market, instance_id)
        left = await market.renter.call("GET", f"/api/v0/instances/balance/{instance_id}/")
        market.clock.advance(3600)
        await post(market, seq=2)
        rows = [row for row in await charges(market) if row["type"] == "gpu"]

    assert float(early.price_usd_per_hour) == pytest.approx(0.4 * float(share))
    assert float(late.price_usd_per_hour) == pytest.approx(0.8 * float(share))
    assert left.body["balance"] == pytest.approx(100 - 240 * 0.4 * float(share))
    assert [row["amount"] for row in rows] == [
        pytest.approx(240 * 0.4 * float(share)),
        pytest.approx(0.8 * float(share)),
    ]


async def test_a_contract_without_an_end_and_one_that_ended_are_not_asked(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2))
        await rent(market, num_gpus=1)
        assert (await relist(market, 20, price_gpu=0.5))["pending_price_increases"] == 0
        second = await rent(market, num_gpus=1)
        await relist(market, 30, price_gpu=0.6)
        [row] = await pending(market)
        assert row["contract_id"] == second
        await market.renter.call("DELETE", f"/api/v0/instances/{second}/", {})
        assert await pending(market) == []
        assert (await answer(market, "accept", row["pending_price_increase_id"])).status == 404


async def test_an_expired_contract_comes_back_at_the_new_price(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        market.clock.advance(11 * DAY_S)
        await hear_of(market)
        await relist(market, 20, price_gpu=0.5)
        await answer(market, "accept", (await pending(market))[0]["pending_price_increase_id"])
        contract = await contract_of(market, instance_id)
        assert contract.price_usd_per_hour == Decimal("0.5")
        assert contract.end_at == market.clock.now() + timedelta(days=20)


@pytest.mark.parametrize(
    ("number", "more"), [(None, {}), ("x", {}), (-1, {}), (1.5, {}), (True, {}), (1, {"instance_ids": [1]})]
)
async def test_a_body_of_another_shape_is_refused(tmp_path: Path, number: Any, more: dict[str, Any]) -> None:
    async with open_market(tmp_path) as market:
        for verb in ("accept", "reject"):
            refused = await answer(market, verb, number, **more)
            assert (refused.status, refused.body["error"]) == (400, "invalid_args")


async def test_the_real_client_shows_and_answers(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        first = await rented(market)
        second = await rent(market, num_gpus=1)
        renter = market.client(market.renter)
        none = await renter.run("show", "pending-price-increases")
        await relist(market, 20, price_gpu=0.5)
        table = await renter.run("show", "pending-price-increases")
        ids = await renter.run("show", "pending-price-increases", "--quiet")
        raw = await renter.json("show", "pending-price-increases")
        unsure = await renter.run("accept", "price-increase", str(first))
        accepted = await renter.run("accept", "price-increase", str(first), "--yes")
        rejected = await renter.run("reject", "price-increase", str(second), "--yes")
        stale = await renter.run("accept", "price-increase", str(first), str(second), "--yes")
        ends = [(await contract_of(market, one)).end_at for one in (first, second)]

    assert "No pending price increases" in none.stdout, none.stderr
    assert "0.4000_->_0.5000" in table.stdout, table.stdout + table.stderr
    numbers = [str(row["pending_price_increase_id"]) for row in raw["pending_price_increases"]]
    assert ids.stdout.split() == numbers
    assert (unsure.returncode, accepted.returncode, rejected.returncode, stale.returncode) == (1, 0, 0, 2)
    assert f"contract_id={first}" in accepted.stdout
    assert "Rejected 1 / Stale 0 / Failed 0" in rejected.stdout
    assert ends[0] is not None
    assert ends[1] is not None
    assert (ends[0] - ends[1]).days == 10


async def test_the_terms_that_travel_let_the_agreed_prices_pass_before_and_after(tmp_path: Path) -> None:
    """The machine judges by them: dearer disk for cheaper GPUs is no contract below its floor."""
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        before = await contract_of(market, instance_id)
        await relist(market, 40, price_gpu=0.3, price_disk=9)
        [row] = await pending(market)
        assert (await answer(market, "accept", row["pending_price_increase_id"])).status == 200
        accepted = await contract_of(market, instance_id)
        async with market.context.engine.begin() as tx:
            machine = await machines.get(tx, 1)
        assert machine is not None
        now = market.clock.now()
        house, unlisted = House(machine.listing, OPEN, 2), House(None, OPEN, 2)
        market.clock.advance(10 * DAY_S + 1)
        await jobs.once(market.context)
        applied = await contract_of(market, instance_id)

    assert (before.price_usd_per_hour, applied.price_usd_per_hour) == (Decimal("0.4"), Decimal("0.3"))
    assert amended(before, accepted, house, now) == (accepted, ())
    assert amended(accepted, applied, unlisted, now) == (applied, ())
    assert admission.refusal(accepted, unlisted, now) is None
    assert admission.refusal(applied, unlisted, now) is None
