"""What goes on when a window is over: contracts that ended before it are extended as ever."""

from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.marketplace import jobs
from tests.marketplace.renting import contract_of, hear_of, rent
from tests.marketplace.support import Market, open_market
from tests.marketplace.test_extensions import relist
from tests.marketplace.test_increases import answer, pending
from tests.marketplace.test_maintenance import DAY, scheduled
from tests.support.clock import START
from tests.support.machines import machine_report

WINDOW = timedelta(days=1), timedelta(days=1, hours=2)
"""From its start to its end, since START: what `scheduled` schedules."""


async def pass_to(market: Market, moment: timedelta) -> None:
    market.clock.advance((START + moment - market.clock.now()).total_seconds())
    await jobs.once(market.context)
    await hear_of(market)


async def test_the_daily_roll_extends_again_when_the_window_is_over(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2), duration="10 days")
        await scheduled(market)
        instance_id = await rent(market, num_gpus=1)
        ends = []
        for moment in (timedelta(0), DAY - timedelta(seconds=1), DAY, 2 * DAY):
            await pass_to(market, moment)
            ends.append((await contract_of(market, instance_id)).end_at)

    assert ends == [START + DAY] * 3 + [START + 12 * DAY]


@pytest.mark.parametrize(
    ("moment", "extended", "end"),
    [
        (WINDOW[0], 0, DAY),
        (WINDOW[1] - timedelta(seconds=1), 0, DAY),
        (WINDOW[1], 1, WINDOW[1] + 9 * DAY),
        (5 * DAY, 1, 14 * DAY),
    ],
    ids=["begins", "lasts", "is over", "long over"],
)
async def test_relisting_extends_when_the_window_is_over(
    tmp_path: Path, moment: timedelta, extended: int, end: timedelta
) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await relist(market, machine_id, 4)
        await scheduled(market)
        instance_id = await rent(market, num_gpus=1)
        await pass_to(market, moment)

        assert await relist(market, machine_id, 9) == extended
        assert (await contract_of(market, instance_id)).end_at == START + end


async def test_nothing_is_extended_into_the_past(tmp_path: Path) -> None:
    """The contract ends half a day before a window; it is extended while that lasts, or when it is over."""
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await relist(market, machine_id, 0.5)
        instance_id = await rent(market, num_gpus=1)
        await scheduled(market)

        await pass_to(market, WINDOW[0] + timedelta(hours=1))
        assert await relist(market, machine_id, 9) == 0
        assert (await contract_of(market, instance_id)).end_at == START + DAY / 2
        await pass_to(market, WINDOW[1])
        assert await relist(market, machine_id, 9) == 1
        assert (await contract_of(market, instance_id)).end_at == START + WINDOW[1] + 9 * DAY


async def test_an_accepted_increase_reaches_beyond_a_window_that_is_over(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await relist(market, machine_id, 4)
        await scheduled(market)
        instance_id = await rent(market, num_gpus=1)
        await pass_to(market, WINDOW[1])
        await relist(market, machine_id, 9, price_gpu=0.5)
        [row] = await pending(market)
        end_at = START + WINDOW[1] + 9 * DAY

        assert row["ask_end_date"] == end_at.timestamp()
        assert (await answer(market, "accept", row["pending_price_increase_id"])).status == 200
        contract = await contract_of(market, instance_id)
        assert (contract.end_at, str(contract.price_usd_per_hour)) == (end_at, "0.5")
