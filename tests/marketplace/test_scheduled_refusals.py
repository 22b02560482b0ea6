"""Scheduled jobs that are refused: bad input, another's, beyond a key's rights, too many."""

from pathlib import Path
from typing import Any

import pytest

from kaalia.marketplace import accounts
from kaalia.marketplace.scheduled import JOBS_MAX
from tests.marketplace.renting import rent, rented_market
from tests.marketplace.scheduling import HOUR_S, PATH, job, pass_time, post, reboots, schedule, shown
from tests.support.clock import START


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
        ("update_template", "PUT", {"image": "No Image"}, "invalid_args"),
        ("update_template", "PUT", {"env": "--privileged"}, "invalid_args"),
        ("update_template", "PUT", {"template_id": "seven"}, "invalid_args"),
        ("rclone", "POST", {"src": "/a", "dst": "/b", "selected": "1"}, "cloud_transfer_invalid"),
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

        await pass_time(market, HOUR_S)
        assert await reboots(market, instance_id) == 1


async def test_an_account_has_so_many_and_no_more(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        for number in range(JOBS_MAX):
            await schedule(market, job(instance_id, "command", {"command": f"ls /{number}"}))

        answer = await post(market, job(instance_id))
        assert (answer.status, answer.body["error"]) == (400, "schedule_too_many")
