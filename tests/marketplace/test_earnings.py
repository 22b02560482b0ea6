"""`show earnings` over a long time: the days add up, and the marketplace is not held up meanwhile."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.model.metering import Edge, Meter
from tests.marketplace.renting import rent, rented_market
from tests.marketplace.support import Market, statements
from tests.marketplace.test_cli_billing import edge, post, used

DAY_S = 86400


async def earnings(market: Market, days: int) -> dict[str, Any]:
    """Of the day of now and those before it."""
    today = market.context.clock.now().timestamp() / DAY_S
    path = f"/api/v0/users/me/machine-earnings/?sday={today - days + 1}&eday={today}"
    answer = await market.host.call("GET", path)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


async def test_a_year_asks_the_database_no_more_than_a_day(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        for _ in range(3):
            await used(market, hours=1)
        with statements(market.context) as of_a_day:
            await earnings(market, 1)
        with statements(market.context) as of_a_year:
            await earnings(market, 366)

    assert len(of_a_year) == len(of_a_day)


async def test_the_days_of_uses_short_and_long_add_up(tmp_path: Path) -> None:
    """One that ended within a day, one over three days, one that goes on; the clock began at noon."""
    async with rented_market(tmp_path) as market:
        await used(market, hours=2, gpus=1)
        await used(market, hours=60, gpus=2)
        going_on = await rent(market, 1)
        await post(market, edge(market, going_on, Meter.RUN, Edge.START, 1, timedelta(0)), stream="c")
        market.clock.advance(10 * 3600)
        await post(market, seq=9, stream="c")
        found = await earnings(market, 10)

    gpu_hours = [row["gpu_earn"] / 0.4 for row in found["per_day"]]
    assert gpu_hours[:6] == [0] * 6
    assert gpu_hours[6:] == [pytest.approx(hours) for hours in (2 + 2 * 10, 2 * 24, 2 * 24, 2 * 2 + 10)]
    assert sum(row["gpu_earn"] for row in found["per_day"]) == pytest.approx(found["summary"]["total_gpu"])
    assert sum(row["sto_earn"] for row in found["per_day"]) == pytest.approx(found["summary"]["total_stor"])
