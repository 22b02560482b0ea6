from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.contracts.contract import Contract
from kaalia.marketplace import listings, machines
from kaalia.model.machine import MachineReport, Missing
from kaalia.model.workload import WorkloadState
from kaalia.units import GB
from tests.marketplace.renting import prove_removed, rent, rented_market, say
from tests.marketplace.support import Market, open_market
from tests.support.machines import machine_report


async def sizes(market: Market, rentable: bool | None = None) -> list[int]:
    filters = {} if rentable is None else {"rentable": {"eq": rentable}}
    return sorted(offer["num_gpus"] for offer in await market.search(**filters))


async def report(market: Market, machine_id: int, what: MachineReport) -> None:
    async with market.context.engine.begin() as tx:
        await machines.put_report(tx, machine_id, what)
        await listings.refresh_asks(tx, machine_id, market.clock.now())


async def test_offers_are_made_in_powers_of_two_and_for_the_whole_machine(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=6))

        assert await sizes(market) == [1] * 6 + [2] * 3 + [4, 6]


async def test_min_chunk_is_the_smallest_slice_and_listing_again_changes_it(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(min_chunk=2)
        before = await market.search()
        await market.host.call("PUT", "/api/v0/machines/create_asks/", {"machine": machine_id, "min_chunk": 4})
        after = await market.search()

    assert sorted(offer["num_gpus"] for offer in before) == [2, 2, 2, 2, 4, 4, 8]
    assert sorted(offer["num_gpus"] for offer in after) == [4, 4, 8]
    assert {offer["id"] for offer in after} < {offer["id"] for offer in before}
    assert after[0]["dph_base"] == 3.2


async def test_a_rented_slice_takes_its_gpus_from_all_sizes_and_ids_stay(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=4))
        ids = {offer["id"] for offer in await market.search()}
        instance_id = await rent(market, num_gpus=1)

        assert await sizes(market, rentable=True) == [1, 1, 1, 2]
        rented = [offer for offer in await market.search() if offer["rented"]]
        assert sorted(offer["num_gpus"] for offer in rented) == [1, 4]
        assert not any(offer["rentable"] for offer in rented)

        await say(market, instance_id, WorkloadState.RUNNING)
        await prove_removed(market, instance_id)

        assert await sizes(market, rentable=True) == [1, 1, 1, 1, 2, 2, 4]
        assert {offer["id"] for offer in await market.search()} == ids


async def test_a_machine_that_is_rented_whole_is_visible_as_rented(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2))
        await rent(market, num_gpus=2)
        offers = await market.search()

    assert not any(offer["rentable"] for offer in offers)
    assert all(offer["rented"] for offer in offers)
    assert sorted(offer["num_gpus"] for offer in offers) == [1, 1, 2]


async def test_gpus_are_free_once_a_stopped_workload_has_stopped(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=1))
        instance_id = await rent(market, num_gpus=1)
        await say(market, instance_id, WorkloadState.RUNNING)

        await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})
        assert await sizes(market, rentable=True) == []

        await say(market, instance_id, WorkloadState.STOPPED)
        assert await sizes(market, rentable=True) == [1]

        await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "running"})
        assert await sizes(market, rentable=True) == []


async def test_what_the_machine_refused_or_ended_holds_no_gpus(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=2), end_date=market.clock.now().timestamp() + 100)
        refused, expired = await rent(market, num_gpus=1), await rent(market, num_gpus=1, label="second")
        assert await sizes(market, rentable=True) == []

        await say(market, refused, WorkloadState.REJECTED)
        assert await sizes(market, rentable=True) == [1]

        market.clock.advance(100)
        await say(market, expired, WorkloadState.STOPPED)
        row = (await market.host.call("GET", "/api/v0/machines/1")).body[0]

    assert row["gpu_occupancy"] == "x x"
    assert row["current_rentals_resident"] == 2


@pytest.mark.parametrize("hours", [-240, 240])
async def test_the_clock_of_a_machine_ends_no_contract_and_keeps_none_alive(tmp_path: Path, hours: int) -> None:
    async with open_market(tmp_path) as market:
        end = market.clock.now() + timedelta(hours=24)
        await market.list_machine(machine_report(gpus=2), end_date=end.timestamp())
        stopped, unheard = await rent(market, num_gpus=1), await rent(market, num_gpus=1, label="second")
        by_its_clock = market.clock.now() + timedelta(hours=hours)

        await say(market, stopped, WorkloadState.STOPPED, as_of=by_its_clock)
        assert await sizes(market, rentable=True) == []

        market.clock.advance(24 * 3600)
        await say(market, stopped, WorkloadState.STOPPED, as_of=by_its_clock)
        row = (await market.host.call("GET", "/api/v0/machines/1")).body[0]
        assert row["gpu_occupancy"] == "x x"

        await say(market, unheard, WorkloadState.RUNNING, as_of=by_its_clock)
        row = (await market.host.call("GET", "/api/v0/machines/1")).body[0]
        assert row["gpu_occupancy"] == "D x", "what still runs has its GPU"


async def test_a_default_job_leaves_a_machine_without_gpus_on_offer(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=0))
        body = {"machine": machine_id, "price_gpu": 0, "price_inetu": 0, "price_inetd": 0, "image": "ubuntu"}
        (job,) = (await market.host.call("PUT", "/api/v0/machines/create_bids/", body)).body["contracts"]
        await say(market, job, WorkloadState.RUNNING)

        assert await sizes(market, rentable=True) == [0]


async def test_disk_is_split_over_the_free_gpus_and_held_until_removed(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        what = machine_report(gpus=2)
        assert what.disk is not None
        await market.list_machine(replace(what, disk=replace(what.disk, total_bytes=1000 * GB, free_bytes=1000 * GB)))
        instance_id = await rent(market, num_gpus=1, disk=100)
        one_left = await market.search(rentable={"eq": True})
        await say(market, instance_id, WorkloadState.STOPPED)
        await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})
        both_left = await market.search(rentable={"eq": True})

    assert [(offer["num_gpus"], offer["disk_space"]) for offer in one_left] == [(1, 900)]
    assert [(offer["num_gpus"], offer["disk_space"]) for offer in both_left] == [(2, 900), (1, 450), (1, 450)]


async def test_a_full_disk_is_never_promised_twice(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        what = machine_report(gpus=1)
        assert what.disk is not None
        await market.list_machine(replace(what, disk=replace(what.disk, total_bytes=1000 * GB, free_bytes=30 * GB)))

        assert (await market.search())[0]["disk_space"] == 30


async def test_disk_that_is_promised_and_not_filled_is_not_promised_again(tmp_path: Path) -> None:
    """300 GB are others', so 600 of the 700 free ones are the renter's, although he has not written a byte."""
    async with open_market(tmp_path) as market:
        what = machine_report(gpus=2)
        assert what.disk is not None
        disk = replace(what.disk, total_bytes=1000 * GB, free_bytes=700 * GB, others_bytes=300 * GB)
        await market.list_machine(replace(what, disk=disk))
        before = await market.search(rentable={"eq": True})
        await rent(market, num_gpus=1, disk=600)

        assert max(offer["disk_space"] for offer in before) == 700
        assert [offer["disk_space"] for offer in await market.search(rentable={"eq": True})] == [100]


async def test_a_driver_that_fails_makes_no_offers_of_a_machine_without_gpus(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        await report(market, machine_id, machine_report(gpus=0, missing=(Missing("gpus", "the driver hangs"),)))
        during = await market.search()
        again = await market.host.call(
            "PUT", "/api/v0/machines/create_asks/", {"machine": machine_id, "price_gpu": 0.5}
        )
        await report(market, machine_id, machine_report(gpus=2))
        after = await sizes(market, rentable=True)

    assert during == []
    assert (again.status, again.body["error"]) == (409, "machine_not_ready")
    assert after == [1, 1, 2]


async def test_a_lost_gpu_takes_away_what_needs_it(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        lost = replace(machine_report(gpus=1), missing=(Missing("gpus.1", "GPU is lost"),))
        await report(market, machine_id, lost)

        assert await sizes(market, rentable=True) == [1]


async def test_more_gpus_make_more_offers(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=1))
        await report(market, machine_id, machine_report(gpus=2))

        assert await sizes(market) == [1, 1, 2]


async def test_a_machine_without_gpus_has_one_renter_at_a_time(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(gpus=0))
        instance_id = await rent(market, num_gpus=0)
        during = await market.search()
        await prove_removed(market, instance_id)
        after = await market.search()

    assert [(offer["rentable"], offer["rented"]) for offer in during] == [(False, True)]
    assert [(offer["rentable"], offer["rented"]) for offer in after] == [(True, False)]


async def test_unlisting_ends_offers_and_no_contract(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(machine_report(gpus=2))
        instance_id = await rent(market, num_gpus=1)
        answer = await market.host.call("DELETE", f"/api/v0/machines/{machine_id}/asks/", {})
        row = (await market.host.call("GET", f"/api/v0/machines/{machine_id}")).body[0]
        instance = await market.renter.call("GET", f"/api/v0/instances/{instance_id}/")

        assert answer.status == 200
        assert await market.search() == []
        assert (row["listed"], row["gpu_occupancy"]) == (False, "D x")
        assert instance.body["instances"]["intended_status"] == "running"


async def test_an_offer_ends_with_its_end_date(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        end = market.clock.now().timestamp() + 100
        await market.list_machine(machine_report(gpus=1), end_date=end)
        before = await market.search()
        market.clock.advance(100)
        after = await market.search()

    assert [(offer["rentable"], offer["duration"], offer["end_date"]) for offer in before] == [(True, 100, end)]
    assert [(offer["rentable"], offer["duration"]) for offer in after] == [(False, 0)]


def rivals(free: listings.Free) -> tuple[Contract, ...]:
    (group,) = free.groups.values()
    return group.rivals


async def test_a_contract_that_did_not_change_is_decoded_once(tmp_path: Path) -> None:
    """Each search looks at every live contract."""
    async with rented_market(tmp_path) as market:
        now = market.context.clock.now()
        instance_id = await rent(market)
        async with market.context.engine.begin() as tx:
            [[_, first, _], [_, second, _]] = [(await listings.everything(tx, now))[0] for _ in range(2)]
        stopped = await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})
        assert stopped.status == 200
        async with market.context.engine.begin() as tx:
            [[_, third, _]] = await listings.everything(tx, now)

    assert rivals(first)[0] is rivals(second)[0]
    assert rivals(third) == ()
