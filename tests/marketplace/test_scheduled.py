"""Scheduled jobs: kept, sent when due with the rights of their owner, refused where the request by hand would be."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.marketplace import accounts, jobs
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.schedule_tables import scheduled_jobs
from kaalia.marketplace.scheduled import JOBS_MAX
from kaalia.model.workload import WorkloadState
from tests.marketplace.renting import contract_of, rent, rented_market, say
from tests.marketplace.support import Answer, Api, Market, open_context
from tests.support.clock import START

PATH = "/api/v0/commands/schedule_job/"
HOUR_S = 3600.0


def job(instance_id: int, what: str = "reboot", body: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """As the client sends it: hourly, from midnight until a week later; START is 12:00."""
    midnight = START.timestamp() - 12 * HOUR_S
    return {
        "start_time": midnight,
        "end_time": midnight + 7 * 24 * HOUR_S,
        "api_endpoint": f"/api/v0/instances/{what}/{instance_id}/",
        "request_method": "PUT",
        "request_body": {"instance_id": instance_id, **(body or {})},
        "day_of_the_week": None,
        "hour_of_the_day": None,
        "frequency": "HOURLY",
        "instance_id": instance_id,
        **changes,
    }


async def post(market: Market, wanted: dict[str, Any], by: Api | None = None) -> Answer:
    return await (by or market.renter).call("POST", PATH, wanted)


async def schedule(market: Market, wanted: dict[str, Any]) -> int:
    answer = await post(market, wanted)
    assert answer.status == 200, answer.body
    return int(answer.body["id"])


async def shown(market: Market, by: Api | None = None) -> list[dict[str, Any]]:
    answer = await (by or market.renter).call("GET", PATH)
    assert answer.status == 200, answer.body
    return list(answer.body)


async def pass_time(market: Market, seconds: float) -> None:
    market.clock.advance(seconds)
    await jobs.once(market.context)


async def reboots(market: Market, instance_id: int) -> int:
    return (await contract_of(market, instance_id)).restart_count


async def test_a_job_is_kept_shown_run_when_due_and_deleted(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        job_id = await schedule(market, job(instance_id))
        (row,) = await shown(market)
        assert {name: row[name] for name in job(instance_id)} == job(instance_id)
        assert (row["id"], row["min_of_the_hour"], row["last_run_time"]) == (job_id, 0, None)
        assert row["next_run_time"] == START.timestamp() + HOUR_S

        await pass_time(market, HOUR_S - 1)
        assert await reboots(market, instance_id) == 0
        await pass_time(market, 1)
        await pass_time(market, 10)
        assert await reboots(market, instance_id) == 1
        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 2
        (row,) = await shown(market)
        assert row["last_result"] == f"instance {instance_id} is rebooting"
        assert row["last_run_time"] == market.clock.now().timestamp()

        assert (await market.renter.call("DELETE", f"{PATH}{job_id}/", {})).body["success"] is True
        assert await shown(market) == []
        again = await market.renter.call("DELETE", f"{PATH}{job_id}/", {})
        assert (again.status, again.body["error"]) == (404, "no_such_scheduled_job")
        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 2


async def test_an_outage_is_made_up_by_one_run(tmp_path: Path) -> None:
    """The marketplace starts anew after five hours: one run at once, and the next one at its time."""
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await schedule(market, job(instance_id))
        market.clock.advance(5 * HOUR_S + 600)

        async with open_context(tmp_path, market.clock) as context:
            context.signing_key = market.context.signing_key
            await jobs.once(context)
            await jobs.once(context)
        assert await reboots(market, instance_id) == 1
        await pass_time(market, HOUR_S - 601)
        assert await reboots(market, instance_id) == 1
        await pass_time(market, 1)
        assert await reboots(market, instance_id) == 2


async def test_the_end_ends_it(tmp_path: Path) -> None:
    """The run at the end is done a little late, not days later; then the job is shown for a day."""
    async with rented_market(tmp_path) as market:
        instance_id, other = await rent(market), await rent(market)
        end = START.timestamp() + HOUR_S
        await schedule(market, job(instance_id, end_time=end))
        await pass_time(market, HOUR_S + 300)
        assert await reboots(market, instance_id) == 1
        (row,) = await shown(market)
        assert row["next_run_time"] is None

        await schedule(market, job(other, end_time=end + 2 * HOUR_S))
        await pass_time(market, 20 * HOUR_S)
        rows = await shown(market)
        assert await reboots(market, other) == 0
        assert (rows[1]["next_run_time"], rows[1]["last_run_time"]) == (None, None)
        assert rows[1]["last_result"].startswith("missed: ")
        await pass_time(market, 8 * HOUR_S)
        assert await shown(market) == []


async def test_each_request_of_the_list_goes_to_its_handler(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, price=0.2)
        await say(market, instance_id, WorkloadState.RUNNING, container_id="c1")
        before = await contract_of(market, instance_id)
        await schedule(market, job(instance_id, "recycle"))
        await schedule(market, job(instance_id, "bid_price", {"client_id": "me", "price": 0.35}))
        await schedule(market, job(instance_id, "command", {"command": "ls /root"}))
        login = {"docker_login_user": "me", "docker_login_pass": "swordfish"}
        snapshot = {"personal_repo": "me/saved", "pause": "true", **login}
        await schedule(market, job(instance_id, "take_snapshot", snapshot, request_method="POST"))

        await pass_time(market, HOUR_S)

        after = await contract_of(market, instance_id)
        assert after.generation == before.generation + 1
        assert after.price_usd_per_hour == Decimal("0.35")
        async with market.context.engine.begin() as tx:
            tasks = "".join((await tx.execute(sa.select(tables.tasks.c.document))).scalars())
            kept = b"".join((await tx.execute(sa.select(scheduled_jobs.c.request_body))).scalars())
        assert '"command":"ls /root"' in tasks
        assert '"image":"me/saved:latest"' in tasks
        rows = {row["api_endpoint"].split("/")[4]: row for row in await shown(market)}
        assert rows["command"]["last_result"].startswith(f"{market.url}/api/v0/blobs/")
        assert rows["take_snapshot"]["request_body"]["docker_login_pass"] == "(hidden)"
        assert "swordfish" not in str(rows)
        assert b"swordfish" not in kept


async def test_a_run_that_is_refused_is_told_and_tried_again_at_its_time(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, target_state="stopped")
        await schedule(market, job(instance_id))

        await pass_time(market, HOUR_S)
        (row,) = await shown(market)
        assert "[not_running]. Start it" in row["last_result"]
        await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "running"})
        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 1


async def test_a_job_ends_with_its_instance(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await schedule(market, job(instance_id))
        await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})

        assert await shown(market) == []
        await pass_time(market, HOUR_S)
        async with market.context.engine.begin() as tx:
            assert (await tx.execute(sa.select(scheduled_jobs))).all() == []


async def test_another_s_instance_and_another_s_job_are_not_there(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        stranger_key = await accounts.add_user(market.context.engine, "stranger", False, market.clock.now())
        stranger = market.anyone.using(stranger_key)
        job_id = await schedule(market, job(instance_id))

        foreign = await post(market, job(instance_id, "recycle"), by=stranger)
        assert (foreign.status, foreign.body["error"]) == (404, "no_such_instance")
        assert await shown(market, by=stranger) == []
        for method in ("PUT", "DELETE"):
            answer = await stranger.call(method, f"{PATH}{job_id}/", job(instance_id))
            assert (answer.status, answer.body["error"]) == (404, "no_such_scheduled_job")
        moved = await market.renter.call("PUT", f"{PATH}{job_id}/", {"request_body": {}, "instance_id": 4711})
        assert moved.body["error"] == "schedule_invalid"
        assert (await shown(market))[0]["instance_id"] == instance_id


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"frequency": "MONTHLY"}, "schedule_invalid", "frequency='MONTHLY'"),
        ({"frequency": ["DAILY"]}, "schedule_invalid", "frequency"),
        ({"frequency": "WEEKLY", "day_of_the_week": 7, "hour_of_the_day": 1}, "schedule_invalid", "day_of_the_week=7"),
        ({"frequency": "DAILY", "hour_of_the_day": 24}, "schedule_invalid", "hour_of_the_day=24"),
        ({"frequency": "DAILY", "hour_of_the_day": "noon"}, "schedule_invalid", "hour_of_the_day='noon'"),
        ({"hour_of_the_day": 3}, "schedule_invalid", "HOURLY does not go with"),
        ({"start_time": "today"}, "schedule_invalid", "start_time='today'"),
        ({"end_time": None}, "schedule_invalid", "end_time='None'"),
        ({"end_time": 1}, "schedule_invalid", "end_time 1970-01-01 00:00 UTC is not after start_time"),
        ({"end_time": 1.8e12}, "schedule_invalid", "end_time='1800000000000.0'"),
        ({"end_time": 3e10}, "schedule_invalid", "over 3660 days ahead"),
        ({"end_time": START.timestamp() - 1}, "schedule_past", "end_time"),
        ({"end_time": START.timestamp() + 60}, "schedule_empty", "hourly at minute 0"),
        ({"request_body": "x"}, "schedule_invalid", "request_body='x'"),
        ({"request_body": {"instance_id": 2}}, "schedule_invalid", "request_body.instance_id is of instance 2"),
        ({"request_body": {"pad": "x" * 20_000}}, "schedule_invalid", "request_body has 20011 bytes"),
        ({"instance_id": True}, "schedule_invalid", "instance_id='True'"),
        ({"instance_id": 1.5}, "schedule_invalid", "instance_id='1.5'"),
        ({"api_endpoint": "/api/v0/instances/reboot/2/"}, "schedule_invalid", "api_endpoint is of instance 2"),
        ({"request_method": "DELETE"}, "schedule_refused", "request_method='DELETE'"),
        ({"api_endpoint": "/api/v0/instances/1/", "request_method": "DELETE"}, "schedule_refused", "/instances/1/"),
        ({"api_endpoint": "/api/v0/instances/reboot/1/../../1/"}, "schedule_refused", "api_endpoint="),
        ({"api_endpoint": "/api/v0/instances/reboot/1?id=2"}, "schedule_refused", "api_endpoint="),
        ({"api_endpoint": "/api/v0/instances/reboot/١/"}, "schedule_refused", "api_endpoint="),
        ({"api_endpoint": "http://x/api/v0/instances/reboot/1/"}, "schedule_refused", "api_endpoint="),
        ({"api_endpoint": "/api/v0/auth/apikeys/", "request_method": "POST"}, "schedule_refused", "apikeys"),
        (
            {"api_endpoint": "/api/v0/commands/schedule_job/", "request_method": "POST"},
            "schedule_refused",
            "schedule_job",
        ),
        ({"api_endpoint": 7}, "schedule_invalid", "api_endpoint='7'"),
    ],
)
async def test_bad_input_is_refused_and_named(tmp_path: Path, changes: dict[str, Any], code: str, named: str) -> None:
    async with rented_market(tmp_path) as market:
        await rent(market)

        answer = await post(market, job(1) | changes)

        assert (answer.status, answer.body["error"]) == (400, code), answer.body
        assert named in answer.body["msg"]
        assert answer.body["msg"].startswith("cannot schedule")
        assert await shown(market) == []


@pytest.mark.parametrize(
    ("what", "method", "body", "code"),
    [
        ("command", "PUT", {"command": "cat /etc/passwd"}, "command_refused"),
        ("command", "PUT", {}, "invalid_args"),
        ("bid_price", "PUT", {"price": "cheap"}, "invalid_args"),
        ("take_snapshot", "POST", {"personal_repo": ""}, "invalid_args"),
        ("rclone", "POST", {"src": "/a", "dst": "/b", "selected": "1"}, "copy_cloud_unsupported"),
        ("take_snapshot", "POST", {"personal_repo": "me/a", "docker_login_user": "me"}, "invalid_args"),
    ],
)
async def test_a_request_that_could_never_succeed_is_refused_now(
    tmp_path: Path, what: str, method: str, body: dict[str, Any], code: str
) -> None:
    async with rented_market(tmp_path) as market:
        await rent(market)

        path = "/api/v0/commands/rclone/" if what == "rclone" else f"/api/v0/instances/{what}/1/"
        answer = await post(market, job(1, what, body, request_method=method, api_endpoint=path))

        assert (answer.status, answer.body["error"]) == (400, code), answer.body
        assert await shown(market) == []


async def test_the_same_job_twice_is_told_with_its_number(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, price=0.2)
        first = await schedule(market, job(instance_id))
        day: dict[str, Any] = {"frequency": "DAILY", "hour_of_the_day": 8}
        cheap = await schedule(market, job(instance_id, "bid_price", {"price": 0.2}, **day))

        same = await post(market, job(instance_id, **day))
        same_times = await post(market, job(instance_id, "bid_price", {"price": 0.3}, **day))
        night = await post(market, job(instance_id, "bid_price", {"price": 0.3}, **{**day, "hour_of_the_day": 20}))
        again = await market.renter.call("PUT", f"{PATH}{first}/", job(instance_id, **day))

        assert (same.status, same.body["error"], same.body["scheduled_job_id"]) == (422, "scheduled_job_exists", first)
        assert (same_times.status, same_times.body["scheduled_job_id"]) == (422, cheap)
        assert (night.status, again.status) == (200, 200)
        rows = await shown(market)
        assert [(row["frequency"], row["hour_of_the_day"]) for row in rows] == [
            ("DAILY", 8),
            ("DAILY", 8),
            ("DAILY", 20),
        ]
        assert rows[0]["next_run_time"] == START.timestamp() + 20 * HOUR_S


async def test_a_change_keeps_what_is_not_sent(tmp_path: Path) -> None:
    """The SDK leaves out what is not given; it cannot say that there is no day."""
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        job_id = await schedule(market, job(instance_id, frequency="WEEKLY", day_of_the_week=0, hour_of_the_day=3))
        path = f"{PATH}{job_id}/"

        assert (await market.renter.call("PUT", path, {"request_body": {}, "hour_of_the_day": 5})).status == 200
        (row,) = await shown(market)
        assert (row["day_of_the_week"], row["hour_of_the_day"]) == (0, 5)
        changed = await market.renter.call(
            "PUT", path, {"request_body": {}, "frequency": "DAILY", "hour_of_the_day": 6}
        )
        assert changed.status == 200, changed.body
        (row,) = await shown(market)
        assert (row["frequency"], row["day_of_the_week"], row["hour_of_the_day"]) == ("DAILY", None, 6)


async def test_a_key_schedules_only_what_it_may_ask_for(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id, other = await rent(market), await rent(market)
        only = {"constraints": {"id": {"eq": instance_id}}}
        rights = {"api": {"instance_write": {"api.command.schedule_job": {}, "api.instance.reboot": only}}}
        made = await market.renter.call("POST", "/api/v0/auth/apikeys/", {"name": "few", "permissions": rights})
        few = market.anyone.using(made.body["key"])

        refused = [await post(market, job(other), by=few), await post(market, job(instance_id, "recycle"), by=few)]
        assert [answer.status for answer in refused] == [403, 403]
        assert (await post(market, job(instance_id), by=few)).status == 200

        await market.renter.call("DELETE", f"/api/v0/auth/apikeys/{made.body['id']}/")
        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 1, "it is the account's, like the instance"


async def test_an_account_has_so_many_and_no_more(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        for number in range(JOBS_MAX):
            await schedule(market, job(instance_id, "command", {"command": f"ls /{number}"}))

        answer = await post(market, job(instance_id))
        assert (answer.status, answer.body["error"]) == (400, "schedule_too_many")


async def test_a_job_under_a_lost_key_is_told_and_stops_no_other(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        lost = await schedule(market, job(instance_id, "recycle"))
        market.context.signing_key = Ed25519PrivateKey.generate()
        await schedule(market, job(instance_id))

        await pass_time(market, HOUR_S)

        rows = await shown(market)
        assert "[schedule_unreadable]" in rows[0]["last_result"]
        assert await reboots(market, instance_id) == 1
        assert (await market.renter.call("DELETE", f"{PATH}{lost}/", {})).status == 200


async def test_a_crash_between_claim_and_run_does_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written down first is that the run has been."""
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await schedule(market, job(instance_id))
        market.clock.advance(HOUR_S + 1)

        class Killed(BaseException):
            """As a process that is ended."""

        async def kill(*_: Any) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr("kaalia.marketplace.scheduled_requests.send", kill)
            with pytest.raises(Killed):
                await jobs.once(market.context)
        await jobs.once(market.context)

        assert await reboots(market, instance_id) == 0
        (row,) = await shown(market)
        assert row["last_result"] == "sent"
        assert row["next_run_time"] == START.timestamp() + 2 * HOUR_S
