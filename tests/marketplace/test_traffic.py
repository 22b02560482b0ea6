"""Internet traffic as money: each sum of a machine once, at the prices agreed at rental, shown by the real client."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from kaalia.contracts.metering import Rate
from kaalia.marketplace import billing, daemons
from kaalia.marketplace.db.tables import inet_rates
from kaalia.model.metering import Edge, Entry, Meter
from kaalia.units import GB
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import MessageKind, StatusMessage, StatusPost
from tests.marketplace.renting import TERMS, list_machine, rent, rented_market
from tests.marketplace.support import Market, add_machine

PRICED = replace(TERMS, price_inet_up_per_gb=Decimal("0.01"), price_inet_down_per_gb=Decimal("0.02"))
WINDOW = ("-s", "2025-12-30", "-e", "2026-01-02")


async def post(market: Market, *entries: Entry, seq: int = 1, stream: str = "a", machine_id: int = 1) -> None:
    messages = tuple(StatusMessage(seq + at, MessageKind.METER, meter=one) for at, one in enumerate(entries))
    now = market.context.clock.now()
    await daemons.take_status(market.context, machine_id, StatusPost(stream, 1, 1, now, messages))


def total(market: Market, instance_id: int, meter: Meter, gb: float, ago_s: float = 0) -> Entry:
    at = market.context.clock.now() - timedelta(seconds=ago_s)
    return Entry(instance_id, 1, meter, Edge.COUNT, at, round(gb * GB))


async def priced(market: Market) -> int:
    """An instance of a machine whose traffic costs something, an hour old."""
    await list_machine(market.context, 1, PRICED)
    instance_id = await rent(market)
    market.clock.advance(3600)
    return instance_id


async def spent(market: Market) -> float:
    return 1000 - float((await market.client(market.renter).json("show", "user"))["credit"])


async def test_traffic_is_charged_and_shown_to_both_sides(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        await post(
            market,
            total(market, instance_id, Meter.INET_UP, 3),
            total(market, instance_id, Meter.INET_DOWN, 10),
        )
        market.clock.advance(3600)
        await post(market, total(market, instance_id, Meter.INET_UP, 4.5), seq=3)
        host, renter = market.client(market.host), market.client(market.renter)
        page = await renter.json("show", "invoices-v1", "-c", *WINDOW)
        old = await renter.json("show", "invoices", *WINDOW)
        row = await renter.json("show", "instance", str(instance_id))
        earned = await host.json("show", "earnings", "-s", "2026-01-01", "-e", "2026-01-01")
        tree = await renter.run("show", "invoices-v1", "-c", *WINDOW, "-f", "tree", "-v")
        credit_usd = await spent(market)

    up_usd, down_usd = 4.5 * 0.01, 10 * 0.02
    [charged] = page["results"]
    assert (charged["source"], charged["amount"]) == (f"instance-{instance_id}", pytest.approx(up_usd + down_usd))
    assert [item["type"] for item in charged["items"]] == ["bwu", "bwd", "bwu"]
    assert charged["items"][1]["description"] == "internet download: 10.000000 GB at $0.020000/GB"
    assert [(one["quantity"], one["rate"]) for one in old if "upload" in one["description"]] == [
        ("3.000000", "0.010000"),
        ("1.500000", "0.010000"),
    ]
    assert (row["inet_up_billed"], row["inet_down_billed"]) == (4.5e6, 10e6)
    assert earned["summary"]["total_bwu"] == pytest.approx(up_usd)
    assert earned["summary"]["total_bwd"] == pytest.approx(down_usd)
    assert earned["per_machine"][0]["bwd_earn"] == earned["per_day"][0]["bwd_earn"] == pytest.approx(down_usd)
    assert earned["current"]["total"] == pytest.approx(credit_usd) == pytest.approx(up_usd + down_usd)
    assert "$0.245" in tree.stdout, tree.stdout + tree.stderr


async def test_a_line_that_comes_again_costs_nothing_again(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        lines = (
            total(market, instance_id, Meter.INET_UP, 1, ago_s=60),
            total(market, instance_id, Meter.INET_UP, 3),
        )
        for stream in ("a", "a", "an older copy", "another one"):
            await post(market, *lines, stream=stream)
        market.clock.advance(60)
        lost = total(market, instance_id, Meter.INET_UP, 2)
        market.clock.advance(60)
        await post(market, lost, total(market, instance_id, Meter.INET_UP, 2.5), stream="its books are lost")
        found = await spent(market)

    assert found == pytest.approx(3.5 * 0.01)


async def test_nothing_is_charged_that_went_after_the_destroy(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        await post(market, total(market, instance_id, Meter.INET_UP, 1))
        market.clock.advance(900)
        await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        market.clock.advance(2700)
        await post(market, total(market, instance_id, Meter.INET_UP, 5), seq=2)
        market.clock.advance(3600)
        await post(market, total(market, instance_id, Meter.INET_UP, 50), seq=3)
        found = await spent(market)

    assert found == pytest.approx((1 + 4 * 900 / 3600) * 0.01)


async def test_a_machine_cannot_count_more_than_a_line_carries(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        await post(market, total(market, instance_id, Meter.INET_UP, 9_000_000))
        found = await spent(market)

    assert found == pytest.approx(3600 * 12.5 * 0.01)


async def test_many_lines_carry_no_more_than_one(tmp_path: Path) -> None:
    """A post may hold thousands of lines of one moment, or of moments to come."""
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        sums = [total(market, instance_id, Meter.INET_UP, 1000 * (one + 1), ago_s=-one / 1000) for one in range(500)]
        await post(market, *sums)
        at_once = await spent(market)
        market.clock.advance(1)
        await post(market, total(market, instance_id, Meter.INET_UP, 9_000_000), seq=501)
        found = await spent(market)

    assert at_once == pytest.approx(1000 * 0.01), "the first line, of the hour since the rental"
    assert found == pytest.approx((1000 + 12.5) * 0.01)


async def test_a_sum_of_years_is_taken_and_one_below_zero_is_not(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        await post(market, total(market, instance_id, Meter.INET_UP, 9_200_000_000))
        with pytest.raises(ApiError, match="numbers"):
            await post(market, total(market, instance_id, Meter.INET_UP, -1), seq=2)
        found = await spent(market)

    assert found == pytest.approx(3600 * 12.5 * 0.01)


async def test_a_machine_counts_no_traffic_of_another_ones_contract(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        other = await add_machine(market.context)
        strays = (total(market, instance_id, Meter.INET_UP, 5), total(market, 77, Meter.INET_UP, 5))
        await post(market, *strays, machine_id=other)
        found = await spent(market)

    assert found == 0


async def test_a_sum_of_a_meter_of_time_and_a_start_of_traffic_are_nothing(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        wrong = total(market, instance_id, Meter.RUN, 5)
        await post(market, wrong, replace(wrong, meter=Meter.INET_UP, edge=Edge.START))
        market.clock.advance(3600)
        await post(market, seq=3)
        found = await spent(market)

    assert found == 0


async def test_the_own_machine_is_free(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await list_machine(market.context, 1, PRICED)
        asks = await market.host.call("POST", "/api/v0/bundles/", {"machine_id": {"eq": 1}, "num_gpus": {"eq": 1}})
        body = {"client_id": "me", "image": "ubuntu:22.04", "disk": 10, "runtype": "ssh"}
        answer = await market.host.call("PUT", f"/api/v0/asks/{asks.body['offers'][0]['id']}/", body)
        assert answer.status == 200, answer.body
        market.clock.advance(3600)
        await post(market, total(market, int(answer.body["new_contract"]), Meter.INET_UP, 5))
        earned = await market.client(market.host).json("show", "earnings", "-s", "2026-01-01", "-e", "2026-01-01")

    assert earned["current"]["total"] == 0


async def test_the_price_is_that_of_the_rental_and_an_accepted_increase_holds_for_later_bytes(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        await list_machine(market.context, 1, replace(PRICED, price_inet_up_per_gb=Decimal(7)))
        await post(market, total(market, instance_id, Meter.INET_UP, 1))
        listed = await spent(market)
        dearer = Rate(market.context.clock.now() + timedelta(minutes=30), Decimal("0.4"), Decimal("0.1"), Decimal(1))
        async with market.context.engine.begin() as tx:
            await billing.set_rate(tx, instance_id, dearer)
        market.clock.advance(3600)
        await post(market, total(market, instance_id, Meter.INET_UP, 2), seq=2)
        across = await spent(market)
        market.clock.advance(3600)
        await post(market, total(market, instance_id, Meter.INET_UP, 3), seq=3)
        after = await spent(market)

    assert listed == pytest.approx(0.01)
    assert across == pytest.approx(0.02), "what went in an hour with two prices costs the lower one"
    assert after == pytest.approx(1.02)


async def test_a_contract_of_before_traffic_was_metered_goes_by_its_terms(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        async with market.context.engine.begin() as tx:
            await tx.execute(sa.delete(inet_rates))
        await post(market, total(market, instance_id, Meter.INET_DOWN, 1))
        found = await spent(market)

    assert found == pytest.approx(0.02)


async def test_traffic_belongs_to_one_day_whole(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        market.clock.advance(11 * 3600)  # midnight
        await post(market, total(market, instance_id, Meter.INET_UP, 1))
        market.clock.advance(1)
        await post(market, total(market, instance_id, Meter.INET_UP, 3), seq=2)
        market.clock.advance(24 * 3600)
        earned = await market.client(market.host).json("show", "earnings", "-s", "2026-01-01", "-e", "2026-01-03")

    assert [day["bwu_earn"] for day in earned["per_day"]] == [pytest.approx(0.01), pytest.approx(0.02), 0]
    assert earned["summary"]["total_bwu"] == pytest.approx(0.03)


@pytest.mark.parametrize("edge", Edge)
async def test_energy_is_the_owners_affair_whatever_a_machine_says(tmp_path: Path, edge: Edge) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await priced(market)
        before = await spent(market)
        await post(market, replace(total(market, instance_id, Meter.ENERGY, 1000, ago_s=1800), edge=edge))
        market.clock.advance(3600)
        await post(market, seq=2)

        assert await spent(market) == before
