"""Owner and renter do anything in any order: the renter pays what was agreed, for the time that was agreed."""

import random
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from kaalia.contracts.contract import Contract
from kaalia.marketplace import jobs
from kaalia.model.metering import Edge, Meter
from tests.marketplace.renting import contract_of
from tests.marketplace.support import Market, open_market
from tests.marketplace.test_cli_billing import edge, post
from tests.marketplace.test_increases import answer, charges, pending, relist, rented

STEPS = 60


@dataclass
class Agreed:
    """What an honest notary would have written down."""

    since: list[datetime]
    prices: list[Decimal]
    end_at: datetime
    rejected: set[int] = field(default_factory=set)

    def price_at(self, now: datetime) -> Decimal:
        return self.prices[bisect_right(self.since, now) - 1]

    def total(self, until: datetime) -> float:
        """US dollars for one GPU from the beginning to `until`, or to the end."""
        until = min(until, self.end_at)
        marks = [*self.since, until]
        spans = [(after - before).total_seconds() for before, after in pairwise([min(at, until) for at in marks])]
        return sum(span / 3600 * float(price) for span, price in zip(spans, self.prices, strict=True))


@pytest.mark.parametrize("seed", range(8))
async def test_only_what_was_agreed_is_ever_paid(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with open_market(tmp_path) as market:
        instance_id = await rented(market)
        contract = await contract_of(market, instance_id)
        assert contract.end_at is not None
        agreed = Agreed([contract.start_at], [Decimal("0.4")], contract.end_at)
        await post(market, edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0)))
        for _ in range(STEPS):
            await step(market, chance, agreed, instance_id)
            contract = await contract_of(market, instance_id)
            assert contract.end_at is not None
            assert contract.end_at >= agreed.end_at, "an end moved back"
            agreed.end_at = contract.end_at
        await jobs.once(market.context)
        now = market.clock.now()
        assert (await contract_of(market, instance_id)).price_usd_per_hour == agreed.price_at(now)
        await post(market, edge(market, instance_id, Meter.RUN, Edge.END, 1, timedelta(0)), seq=10_000)
        paid = sum(row["amount"] for row in await charges(market))

        assert paid == pytest.approx(agreed.total(now), abs=1e-6)
        assert len(agreed.prices) > 1, "no increase was accepted: a walk that shows nothing"


async def step(market: Market, chance: random.Random, agreed: Agreed, instance_id: int) -> None:
    choice = chance.choice(("list", "list", "roll", "unlist", "accept", "accept", "reject", "wait", "wait", "job"))
    if choice == "list":
        await relist(market, chance.choice((1, 10, 20)), price_gpu=chance.choice((0.2, 0.4, 0.5, 0.6, 0.8)))
    elif choice == "roll":
        await relist(market, duration="5 days", price_gpu=chance.choice((0.4, 0.6)))
    elif choice == "unlist":
        await market.host.call("DELETE", "/api/v0/machines/1/asks/", {})
    elif choice == "wait":
        market.clock.advance(chance.choice((60, 3600, 86400, 4 * 86400)))
        await post(market)
    elif choice == "job":
        await jobs.once(market.context)
    else:
        await decide(market, choice, agreed, await contract_of(market, instance_id))
    for row in await pending(market):
        assert row["pending_price_increase_id"] not in agreed.rejected
        assert row["new_gpu_costpersec"] > row["old_gpu_costpersec"]


async def decide(market: Market, verb: str, agreed: Agreed, before: Contract) -> None:
    for row in await pending(market):
        number = row["pending_price_increase_id"]
        assert before.end_at is not None
        assert row["contract_end_date"] == before.end_at.timestamp()
        assert (await answer(market, verb, number)).status == 200
        if verb == "accept":
            agreed.since.append(max(before.end_at, market.clock.now()))
            agreed.prices.append(Decimal(str(round(row["new_gpu_costpersec"] * 3600, 6))))
        else:
            agreed.rejected.add(number)
