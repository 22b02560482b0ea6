"""Reserved contracts through the API: the public documents' example of an early end, to the cent, on both sides."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.model.metering import Edge, Meter
from tests.marketplace.renting import rent
from tests.marketplace.support import Market, open_market
from tests.marketplace.test_cli_billing import at, edge, post

DAY_S = 86400.0


async def reserved_market(market: Market, amount: float = 576, **terms: Any) -> int:
    """An instance at 1 $/h that begins to run now, `amount` dollars prepaid: 576 are one month at 20 % off."""
    await market.list_machine(price_gpu=1, **{"credit_discount_max": 0.5, **terms})
    instance_id = await rent(market, 1)
    answer = await prepay(market, instance_id, amount)
    assert answer["success"], answer
    await post(market, edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0)))
    return instance_id


async def prepay(market: Market, instance_id: int, amount: float) -> dict[str, Any]:
    answer = await market.renter.call("PUT", f"/api/v0/instances/prepay/{instance_id}/", {"amount": amount})
    body: dict[str, Any] = answer.body
    return body


async def run_on(market: Market, days: float) -> None:
    """The machine goes on and says so at the end."""
    market.clock.advance(days * DAY_S)
    await post(market, seq=2)


async def balance(market: Market, instance_id: int) -> dict[str, float]:
    answer = await market.renter.call("GET", f"/api/v0/instances/balance/{instance_id}/")
    body: dict[str, float] = answer.body
    return body


async def destroy(market: Market, instance_id: int) -> None:
    answer = await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
    assert answer.status == 200, answer.body


async def credit(market: Market) -> float:
    return float((await market.renter.call("GET", "/api/v0/users/current/")).body["credit"])


async def earnings(market: Market, **query: Any) -> dict[str, Any]:
    """Of the day of now and the 40 days before it."""
    today = market.context.clock.now().timestamp() / DAY_S
    question = "&".join(f"{name}={value}" for name, value in {"sday": today - 40, "eday": today, **query}.items())
    answer = await market.host.call("GET", f"/api/v0/users/me/machine-earnings/?{question}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


async def ends_of_reservations(market: Market) -> list[dict[str, Any]]:
    when = f'{{"when":{{"gte":0,"lte":{at(market)}}},"service":{{"in":["instance_prepay"]}}}}'
    answer = await market.renter.call("GET", f"/api/v1/invoices/?select_filters={when}")
    rows: list[dict[str, Any]] = answer.body["results"]
    return rows


async def test_an_early_end_gives_back_what_the_documents_promise(tmp_path: Path) -> None:
    """576 $ for a month, ended after 15 days: 288 $ are left, 72 $ discount were enjoyed, 216 $ come back."""
    async with open_market(tmp_path) as market:
        instance_id = await reserved_market(market)
        await run_on(market, 15)
        promised = await balance(market, instance_id)
        before = await credit(market)
        await destroy(market, instance_id)
        await destroy(market, instance_id)  # the client repeats requests
        left, earned = await credit(market), await earnings(market)
        elsewhere = await earnings(market, machid=77)
        [invoice] = await ends_of_reservations(market)

    assert promised["refundable_deposit"] == pytest.approx(216)
    assert before == pytest.approx(1000 - 288)
    assert left == pytest.approx(1000 - 288 - 72)
    assert (invoice["type"], invoice["amount"]) == ("reserved", pytest.approx(72))
    assert "216.00 of 288.00 given back" in invoice["description"]
    assert earned["current"]["total"] == pytest.approx(1000 - left)
    assert earned["summary"]["total_gpu"] == earned["per_machine"][0]["gpu_earn"] == pytest.approx(360)
    assert sum(day["gpu_earn"] for day in earned["per_day"]) == pytest.approx(360)
    assert earned["per_day"][-1]["gpu_earn"] == pytest.approx(12 * 0.8 + 72)  # the day has begun 12 hours ago
    assert elsewhere["summary"]["total_gpu"] == 0


async def test_an_end_at_once_costs_nothing(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await reserved_market(market)
        await destroy(market, instance_id)

        assert await credit(market) == 1000
        assert await ends_of_reservations(market) == []


async def test_an_end_that_is_not_early_costs_no_discount(tmp_path: Path) -> None:
    """The contract ran until its end, or the owner ended it."""
    async with open_market(tmp_path) as market:
        end = market.context.clock.now().timestamp() + 15 * DAY_S
        expired = await reserved_market(market, end_date=end)
        await run_on(market, 15)
        await destroy(market, expired)
        assert await credit(market) == pytest.approx(1000 - 288)


async def test_nobodys_deposit_is_cut_when_the_owner_deletes_the_machine(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await reserved_market(market)
        await run_on(market, 15)
        answer = await market.host.call("POST", "/api/v0/machines/1/force_delete/", {})
        assert answer.status == 200, answer.body

        assert await credit(market) == pytest.approx(1000 - 288)
        assert await ends_of_reservations(market) == []


async def test_a_further_payment_does_not_forgive_the_discount(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await reserved_market(market)
        await run_on(market, 15)
        assert (await prepay(market, instance_id, 1))["success"]
        held = await balance(market, instance_id)
        await destroy(market, instance_id)

        assert held["total_discount"] == pytest.approx(72)
        assert held["refundable_deposit"] == pytest.approx(289 - 72)
        assert await credit(market) == pytest.approx(1000 - 288 - 72)


async def test_a_reservation_that_was_used_up_has_earned_its_discount(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        instance_id = await reserved_market(market)
        await run_on(market, 30)
        assert (await prepay(market, instance_id, 300))["success"]
        await destroy(market, instance_id)

        assert await credit(market) == pytest.approx(1000 - 576)


async def test_a_payment_that_is_repeated_is_one_payment(tmp_path: Path) -> None:
    """The client repeats a request whose answer is lost; another amount, or the same one later, is another payment."""
    async with open_market(tmp_path) as market:
        instance_id = await reserved_market(market, amount=100)
        market.clock.advance(50)
        again = await prepay(market, instance_id, 100.0)
        repeated = await balance(market, instance_id)
        assert (await prepay(market, instance_id, 60))["success"]
        other = await balance(market, instance_id)
        market.clock.advance(61)
        assert (await prepay(market, instance_id, 60))["success"]
        later = await balance(market, instance_id)

    assert again["success"]
    assert again["timescale"] == pytest.approx(repeated["discount_months"])
    assert [round(one["balance"]) for one in (repeated, other, later)] == [100, 160, 220]


async def test_a_silent_machine_uses_nothing_up(tmp_path: Path) -> None:
    """Neither charges nor the discount count what it has not told."""
    async with open_market(tmp_path) as market:
        instance_id = await reserved_market(market)
        await run_on(market, 5)
        market.clock.advance(10 * DAY_S)
        held = await balance(market, instance_id)
        await destroy(market, instance_id)

        assert held["balance"] == pytest.approx(576 - 5 * 24 * 0.8)
        assert held["total_discount"] == pytest.approx(5 * 24 * 0.2)
        assert await credit(market) == pytest.approx(1000 - 5 * 24)
