"""Recycling as a renter asks for it: one more generation, once, of what is his and not over."""

from pathlib import Path

from kaalia.errors import Problem
from kaalia.model.workload import NotMade, WorkloadState
from tests.marketplace.renting import TERMS, contract_of, list_machine, rent, rented_market, say, show
from tests.marketplace.support import Market


def path_of(instance_id: int) -> str:
    return f"/api/v0/instances/recycle/{instance_id}/"


async def generation(market: Market, instance_id: int) -> int:
    return (await contract_of(market, instance_id)).generation


async def test_a_recycle_is_one_more_generation_until_the_machine_has_made_it(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING)
        seen = []

        answers = [await market.renter.call("PUT", path_of(instance_id), {}) for _ in range(2)]
        told = [
            (WorkloadState.RUNNING, 1),
            (WorkloadState.REMOVING, 1),
            (WorkloadState.CREATING, 2),
            (WorkloadState.RUNNING, 2),
        ]
        for state, number in told:
            await say(market, instance_id, state, generation=number)
            seen.append((await show(market, instance_id))["actual_status"])

        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body["success"] is True
        assert seen == ["recycling", "recycling", "created", "running"]
        assert await generation(market, instance_id) == 2, "clients repeat requests"
        await market.renter.call("PUT", path_of(instance_id), {})
        assert await generation(market, instance_id) == 3


async def test_one_that_could_not_be_made_shows_what_goes_on_and_may_be_asked_again(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING)
        await market.renter.call("PUT", path_of(instance_id), {})
        told = NotMade(2, Problem("image_not_found", "cannot pull ubuntu:22.04: there is no such image or tag"))

        await say(market, instance_id, WorkloadState.RUNNING, not_made=told, status_msg=told.warning)

        row = await show(market, instance_id)
        assert row["actual_status"] == "running"
        assert "[image_not_found]" in row["status_msg"]
        await market.renter.call("PUT", path_of(instance_id), {})
        assert await generation(market, instance_id) == 3
        assert (await show(market, instance_id))["actual_status"] == "recycling"


async def test_what_is_stopped_stays_stopped(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.STOPPED)
        await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})

        answer = await market.renter.call("PUT", path_of(instance_id), {})

        assert answer.status == 200
        assert await generation(market, instance_id) == 2
        row = await show(market, instance_id)
        assert (row["actual_status"], row["intended_status"]) == ("stopped", "stopped")


async def test_what_is_another_s_or_over_is_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await list_machine(market.context, 1, type(TERMS)(TERMS.price_gpu_per_hour, rolling_duration_s=60.0))
        mine, gone = await rent(market), await rent(market, label="gone")
        for number in (mine, gone):
            await say(market, number, WorkloadState.RUNNING)
        await market.renter.call("DELETE", f"/api/v0/instances/{gone}/", {})

        foreign = await market.host.call("PUT", path_of(mine), {})
        destroyed = await market.renter.call("PUT", path_of(gone), {})
        market.clock.advance(61)
        expired = await market.renter.call("PUT", path_of(mine), {})

        assert (foreign.status, foreign.body["error"]) == (404, "no_such_instance")
        assert (destroyed.status, destroyed.body["error"]) == (404, "no_such_instance")
        assert (expired.status, expired.body["error"]) == (400, "contract_expired")
        assert expired.body["msg"].startswith(f"cannot recycle instance {mine}: its contract expired at ")
        assert await generation(market, mine) == 1
