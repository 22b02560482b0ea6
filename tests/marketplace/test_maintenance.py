"""Windows of maintenance and cordons: who may schedule what, what renters see, and what cannot be rented meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts.contract import ContractKind
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import MIN_RENTAL
from kaalia.marketplace import machines
from kaalia.model.workload import WorkloadState
from tests.marketplace.renting import accept, contract_of, hear_of, rent, rented_market, revision_of, say, show
from tests.marketplace.support import Answer, Api, Market
from tests.support.clock import START
from tests.support.machines import machine_report

HOUR_S = 3600.0
DAY = timedelta(days=1)


def epoch(hours: float = 24) -> float:
    return START.timestamp() + hours * HOUR_S


async def schedule(market: Market, by: Api | None = None, machine_id: int = 1, **body: Any) -> Answer:
    """As the client sends it."""
    sent = {"client_id": "me", "sdate": epoch(), "duration": 2.0, "maintenance_category": "power", **body}
    return await (by or market.host).call("PUT", f"/api/v0/machines/{machine_id}/dnotify/", sent)


async def scheduled(market: Market, **body: Any) -> None:
    answer = await schedule(market, **body)
    assert answer.status == 200, answer.body


async def cancel(market: Market, machine_id: int = 1, by: Api | None = None) -> Answer:
    body = {"client_id": "me", "machine_id": machine_id}
    return await (by or market.host).call("PUT", f"/api/v0/machines/{machine_id}/cancel_maint/", body)


async def windows(market: Market, ids: str = "[1]", by: Api | None = None) -> Any:
    answer = await (by or market.host).call("GET", f"/api/v0/machines/maintenances?owner=me&machine_ids={ids}")
    return answer.body if answer.status == 200 else answer


async def place(market: Market, placed: Cordon | None) -> None:
    """As the daemon's heartbeat does."""
    async with market.context.engine.begin() as tx:
        await machines.put_cordon(tx, 1, placed)


async def list_until(market: Market, days: float, **terms: Any) -> None:
    body = {"machine": 1, "end_date": epoch(24 * days), **terms}
    assert (await market.host.call("PUT", "/api/v0/machines/create_asks/", body)).status == 200


async def test_a_window_is_kept_shown_and_told_to_the_daemon(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        revision = await revision_of(market)
        answer = await schedule(market)
        found = await windows(market)
        machine = (await market.host.call("GET", "/api/v0/machines/1?owner=me")).body[0]

        assert answer.body == {"success": True, "you_sent": "0 notifications sent"}
        row = {
            "machine_id": 1,
            "start_time": epoch(24),
            "end_time": epoch(26),
            "duration_hours": 2.0,
            "maintenance_category": "power",
        }
        assert found == machine["machine_maintenance"] == [row]
        assert await revision_of(market) == revision + 1


@pytest.mark.parametrize(
    "sdate", [epoch(), int(epoch()), str(epoch()), "2026-01-02T12:00:00Z", "2026-01-02T13:00+01:00", "2026-01-02 12:00"]
)
async def test_the_start_may_be_written_in_several_ways_and_the_path_too(tmp_path: Path, sdate: Any) -> None:
    async with rented_market(tmp_path) as market:
        body = {"sdate": sdate, "duration": "2", "maintenance_category": None}
        answer = await market.host.call("PUT", "/api/v0/machines/1/dnotify", body)
        (row,) = await windows(market)

    assert answer.status == 200, answer.body
    assert (row["start_time"], row["duration_hours"], row["maintenance_category"]) == (epoch(), 2, "not provided")


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"sdate": epoch(-1)}, 400, "maintenance_past", "the start 2026-01-01 11:00 UTC is past"),
        ({"sdate": 0}, 400, "maintenance_past", "is past"),
        ({"sdate": epoch() * 1000}, 400, "invalid_args", "is no date"),
        ({"sdate": epoch(24 * 400)}, 400, "maintenance_invalid", "over 366 days ahead"),
        ({"sdate": 253402300799, "duration": 1}, 400, "invalid_args", "sdate=253402300799 is no date"),
        ({"sdate": "9999-12-31T23:59:59Z"}, 400, "invalid_args", "is no date"),
        ({"sdate": "9999-12-31T23:59:59-12:00"}, 400, "invalid_args", "is no date"),
        ({"sdate": "3000-01-01T00:00:00Z"}, 400, "maintenance_invalid", "over 366 days ahead"),
        ({"sdate": -1e30}, 400, "invalid_args", "is no date"),
        ({"sdate": 1e300}, 400, "invalid_args", "is no date"),
        ({"sdate": "0001-01-01T00:00:00+14:00"}, 400, "invalid_args", "is no date"),
        ({"sdate": None}, 400, "invalid_args", "sdate=None is no date"),
        ({"sdate": True}, 400, "invalid_args", "sdate=True is no date"),
        ({"sdate": "nan"}, 400, "invalid_args", "sdate='nan' is no date"),
        ({"sdate": "soon"}, 400, "invalid_args", "sdate='soon' is no date"),
        ({"sdate": [1]}, 400, "invalid_args", "is no date"),
        ({"duration": 0}, 400, "invalid_args", "duration=0 is no number of hours"),
        ({"duration": -2}, 400, "invalid_args", "duration=-2"),
        ({"duration": "NaN"}, 400, "invalid_args", "duration='NaN'"),
        ({"duration": "1e999"}, 400, "invalid_args", "duration="),
        ({"duration": None}, 400, "invalid_args", "duration=None"),
        ({"duration": 720.5}, 400, "invalid_args", "up to 720"),
        ({"maintenance_category": "party"}, 400, "invalid_args", "maintenance_category='party' is unknown"),
        ({"maintenance_category": ["gpu"]}, 400, "invalid_args", "is unknown"),
    ],
)
async def test_what_makes_no_sense_is_a_400_that_says_why(
    tmp_path: Path, body: dict[str, Any], status: int, code: str, says: str
) -> None:
    async with rented_market(tmp_path) as market:
        revision = await revision_of(market)
        answer = await schedule(market, **body)

        assert (answer.status, answer.body["success"], answer.body["error"]) == (status, False, code)
        assert answer.body["msg"].startswith("cannot schedule maintenance: ")
        assert says in answer.body["msg"]
        assert await windows(market) == []
        assert await revision_of(market) == revision


async def test_overlapping_windows_are_a_409_and_the_same_one_again_is_not(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await scheduled(market)
        market.clock.advance(30)
        repeated = await schedule(market)
        answer = await schedule(market, sdate=epoch(25))
        await scheduled(market, sdate=epoch(26), maintenance_category="gpu")
        found = await windows(market)

    assert repeated.status == 200
    assert (answer.status, answer.body["error"]) == (409, "maintenance_conflict")
    assert "from 2026-01-02 12:00 UTC to 2026-01-02 14:00 UTC (power)" in answer.body["msg"]
    assert [row["maintenance_category"] for row in found] == ["power", "gpu"]


async def test_of_two_overlapping_windows_at_once_one_is_taken(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answers = await asyncio.gather(*(schedule(market, sdate=epoch(24 + part / 4)) for part in range(4)))

        assert sorted(answer.status for answer in answers) == [200, 409, 409, 409]
        assert len(await windows(market)) == 1


async def test_a_foreign_machine_is_not_there(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await scheduled(market)
        answers = [
            await schedule(market, by=market.renter),
            await cancel(market, by=market.renter),
            await windows(market, by=market.renter),
            await schedule(market, machine_id=99),
            await windows(market, "[1, 99]"),
        ]

        assert [(one.status, one.body["error"]) for one in answers] == [(404, "no_such_machine")] * 5
        assert len(await windows(market)) == 1


async def test_windows_of_all_machines_and_wrong_ids(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await scheduled(market)
        everything = await market.host.call("GET", "/api/v0/machines/maintenances?owner=me")
        wrong = await windows(market, '["x"]')

    assert len(everything.body) == 1
    assert (wrong.status, wrong.body["error"]) == (400, "invalid_args")


async def test_cancel_forgets_them_all_and_again_is_no_error(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await scheduled(market)
        await scheduled(market, sdate=epoch(48))
        revision = await revision_of(market)
        first, second = await cancel(market), await cancel(market)

        assert (first.status, second.status) == (200, 200)
        assert first.body["msg"].startswith("2 maintenance windows")
        assert await windows(market) == []
        assert await revision_of(market) > revision


async def test_every_renter_of_the_machine_sees_the_windows_until_they_are_over(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        running, stopped = await rent(market), await rent(market)
        await say(market, running, WorkloadState.RUNNING, status_msg="success, running ubuntu:22.04/args")
        await say(market, stopped, WorkloadState.STOPPED, status_msg="stopped")
        plain = await show(market, running)
        answer = await schedule(market)
        await scheduled(market, sdate=epoch(48))
        await hear_of(market)
        seen = [await show(market, number) for number in (running, stopped)]
        market.clock.advance(26 * HOUR_S)
        await hear_of(market)
        later = await show(market, running)
        await cancel(market)
        after = await show(market, running)

    assert answer.body["you_sent"] == "1 notifications sent", "one renter has both"
    assert (plain["machine_maintenance"], plain["status_msg"]) == (None, "success, running ubuntu:22.04/args")
    notice = "maintenance from 2026-01-02 12:00 UTC to 2026-01-02 14:00 UTC (power)"
    assert [row["status_msg"] for row in seen] == [f"{notice}; {plain['status_msg']}", f"stopped; {notice}"]
    assert [row["start_time"] for row in seen[0]["machine_maintenance"]] == [epoch(24), epoch(48)]
    assert [row["start_time"] for row in later["machine_maintenance"]] == [epoch(48)]
    assert (after["machine_maintenance"], after["status_msg"]) == (None, plain["status_msg"])
    assert after["actual_status"] == "running"


async def test_offers_and_contracts_end_where_the_window_begins(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        endless = await rent(market)
        await scheduled(market)
        offers = await market.search(rentable={"eq": True})
        cut = await rent(market)
        bid = await rent(market, price=0.2)
        await list_until(market, 0.5)
        before = await market.search()
        earlier, later, third = [await contract_of(market, number) for number in (endless, cut, bid)]

    begins_at = datetime.fromtimestamp(epoch(), UTC)
    assert {(offer["end_date"], offer["duration"]) for offer in offers} == {(epoch(), 24 * HOUR_S)}
    assert earlier.end_at is None, "agreed before: nothing shortens it"
    assert (later.end_at, third.end_at, third.kind) == (begins_at, begins_at, ContractKind.INTERRUPTIBLE)
    assert {offer["end_date"] for offer in before} == {epoch(12)}


async def test_shortly_before_and_during_a_window_nothing_is_rented_out(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await scheduled(market)
        near = 24 * HOUR_S - MIN_RENTAL.total_seconds()
        found = []
        for at_s in (near, near + 1, 24 * HOUR_S, 26 * HOUR_S - 1, 26 * HOUR_S):
            market.clock.advance(START.timestamp() + at_s - market.clock.now().timestamp())
            await hear_of(market)
            found.append(bool(await market.search(rentable={"eq": True})))
            if at_s == near + 1:
                refused = await accept(market)
                launched = await market.renter.call(
                    "PUT", "/api/v0/launch_instance/", {"q": {}, "image": "ubuntu", "disk": 1}
                )

    assert found == [True, False, False, False, True]
    assert (refused.status, refused.body["error"]) == (410, "maintenance_overlap")
    assert "its owner works on it from 2026-01-02 12:00 UTC to 2026-01-02 14:00 UTC" in refused.body["msg"]
    assert "no_such_ask" in refused.body["msg"]
    assert "no offer fits" in launched.body["msg"]


async def test_a_listing_that_ends_before_the_window_is_rented_out_to_its_end(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await list_until(market, 0.02)
        await scheduled(market, sdate=epoch(0.6))

        assert all(offer["rentable"] for offer in await market.search())
        assert (await accept(market)).status == 200


async def test_relisting_does_not_extend_a_contract_into_a_window(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await list_until(market, 0.5)
        short = await rent(market)
        await list_until(market, 1.05, price_gpu=0.5)
        inside = await rent(market)
        await scheduled(market)
        await list_until(market, 9, price_gpu=0.4)

        ends = [(await contract_of(market, number)).end_at for number in (short, inside)]
    assert ends == [START + DAY, START + 9 * DAY], "the first ended in time; the second was agreed beyond its start"


async def test_default_jobs_end_where_the_window_begins_or_are_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path, machine_report(gpus=1)) as market:
        body = {"machine": 1, "price_gpu": 0.1, "price_inetu": 0, "price_inetd": 0, "image": "miner:latest"}
        await scheduled(market)
        taken = await market.host.call("PUT", "/api/v0/machines/create_bids/", body)
        contract = await contract_of(market, 1)
        market.clock.advance(24 * HOUR_S)
        refused = await market.host.call("PUT", "/api/v0/machines/create_bids/", body)

    assert taken.status == 200, taken.body
    assert (contract.kind, contract.end_at) == (ContractKind.DEFAULT_JOB, START + DAY)
    assert (refused.status, refused.body["error"]) == (409, "maintenance_overlap")
    assert refused.body["msg"].startswith("cannot set the default job of machine 1: ")


async def test_a_cordoned_machine_is_not_rented_out_and_its_owner_sees_why(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await place(market, Cordon(START, START + DAY))
        offers = await market.search(rentable={"eq": True})
        anyhow = await market.search()
        refused = await accept(market)
        job = {"machine": 1, "price_gpu": 0.1, "image": "miner:latest"}
        no_job = await market.host.call("PUT", "/api/v0/machines/create_bids/", job)
        (row,) = (await market.host.call("GET", "/api/v0/machines/1?owner=me")).body
        still = await show(market, instance_id)
        await place(market, None)
        open_again = await market.search(rentable={"eq": True})

    assert offers == []
    assert {offer["error_description"] for offer in anyhow} == {"machine_draining"}
    assert (refused.status, refused.body["error"]) == (410, "machine_draining")
    assert "the owner drains the machine and admits nothing new until 2026-01-02 12:00 UTC" in refused.body["msg"]
    assert (no_job.status, no_job.body["error"]) == (409, "machine_draining")
    assert row["error_description"] == "draining until 2026-01-02 12:00 UTC"
    assert still["intended_status"] == "running"
    assert open_again != []


async def test_a_cordon_ends_by_its_date_though_the_daemon_says_nothing(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await place(market, Cordon(START, START + timedelta(seconds=60)))
        before = await market.search(rentable={"eq": True})
        market.clock.advance(60)
        after = await market.search(rentable={"eq": True})

    assert (before, bool(after)) == ([], True)


async def test_volumes_are_not_rented_out_of_a_cordoned_machine(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        body = {"machine": 1, "size": 10, "price_disk": 0.1}
        assert (await market.host.call("POST", "/api/v0/volumes/", body)).status == 200
        open_ = (await market.renter.call("POST", "/api/v0/volumes/search/", {})).body["offers"]
        await place(market, Cordon(START))
        closed = (await market.renter.call("POST", "/api/v0/volumes/search/", {})).body["offers"]

    assert (len(open_), closed) == (1, [])
