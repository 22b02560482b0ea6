"""What goes on when a window is over: contracts that ended before it are extended as ever, default jobs come back."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from kaalia.contracts.contract import Desired
from kaalia.marketplace import jobs
from tests.marketplace.renting import contract_of, hear_of, rent, revision_of
from tests.marketplace.support import Market, open_market
from tests.marketplace.test_extensions import relist
from tests.marketplace.test_increases import answer, pending
from tests.marketplace.test_listings import sizes
from tests.marketplace.test_maintenance import DAY, cancel, epoch, scheduled
from tests.support.clock import START
from tests.support.machines import machine_report

WINDOW = timedelta(days=1), timedelta(days=1, hours=2)
"""From its start to its end, since START: what `scheduled` schedules."""


async def set_jobs(market: Market) -> list[int]:
    """One for each GPU."""
    body = {"machine": 1, "price_gpu": 0.1, "price_inetu": 0, "price_inetd": 0, "image": "miner:latest"}
    answer = await market.host.call("PUT", "/api/v0/machines/create_bids/", body)
    assert answer.status == 200, answer.body
    made: list[int] = answer.body["contracts"]
    return made


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


async def test_a_default_job_comes_back_after_each_window(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1))
        await scheduled(market)
        await scheduled(market, sdate=epoch(72))
        (job,) = await set_jobs(market)
        ends, revisions = [], []
        second_end = timedelta(hours=74)
        for moment in (timedelta(0), WINDOW[1] - timedelta(seconds=1), WINDOW[1], 2 * DAY, 3 * DAY, second_end):
            await pass_to(market, moment)
            ends.append((await contract_of(market, job)).end_at)
            revisions.append(await revision_of(market))

        assert ends == [START + DAY] * 2 + [START + 3 * DAY] * 3 + [None]
        changed = [later > earlier for earlier, later in pairwise(revisions)]
        assert changed == [False, True, False, False, True], "the machine is told of changes, and of nothing else"
        assert await sizes(market, rentable=True) == [1], "the job still gives way"


async def test_a_default_job_goes_on_when_the_window_is_cancelled(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1))
        await scheduled(market)
        (replaced,), (job,) = await set_jobs(market), await set_jobs(market)
        await cancel(market)
        await jobs.once(market.context)
        first, second = await contract_of(market, replaced), await contract_of(market, job)

    assert (first.desired, first.end_at) == (Desired.ENDED, START + DAY), "the second took its place"
    assert (second.desired, second.end_at) == (Desired.RUNNING, None)


async def test_a_clean_up_during_a_long_window_leaves_the_default_job(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2))
        await scheduled(market, duration=240.0)
        rented = await rent(market, num_gpus=1)
        placed = await set_jobs(market)
        await pass_to(market, 4 * DAY)
        cleaned = await market.host.call("PUT", "/api/v0/machines/1/cleanup/", {})
        left = [(await contract_of(market, number)).desired for number in (rented, *placed)]

    assert cleaned.body["num_deleted"] == 1, cleaned.body
    assert left == [Desired.ENDED, Desired.RUNNING, Desired.RUNNING]


async def test_a_listing_says_nothing_to_the_owner_about_his_own_job(tmp_path: Path) -> None:
    """He would be asked for a price increase, or his job would count as extended."""
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=1))
        await scheduled(market)
        (job,) = await set_jobs(market)
        body = {"machine": machine_id, "end_date": epoch(24 * 9), "price_gpu": 0.5}
        dearer = (await market.host.call("PUT", "/api/v0/machines/create_asks/", body)).body
        asked = await pending(market, by=market.host)
        await pass_to(market, WINDOW[1])
        before = (await contract_of(market, job)).end_at
        extended = await relist(market, machine_id, 20, price_gpu=0.01, price_disk=0)

        assert (dearer["pending_price_increases"], asked) == (0, [])
        assert (extended, before) == (0, None)
        assert (await contract_of(market, job)).end_at is None
