"""Scheduled jobs: kept, sent when due with the rights of their owner, refused where the request by hand would be."""

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kaalia.marketplace import rentals, scheduled, scheduled_requests, scheduled_runs, sealing
from kaalia.marketplace.context import Context
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.schedule_tables import scheduled_jobs
from kaalia.marketplace.routing import Caller
from kaalia.model.workload import WorkloadState
from kaalia.wire.schedule import Wanted
from tests.marketplace.renting import contract_of, rent, rented_market, say
from tests.marketplace.scheduling import HOUR_S, PATH, job, pass_time, post, reboots, schedule, shown
from tests.marketplace.support import open_context
from tests.support.clock import START


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
            await scheduled_runs.run_due(context)
            await scheduled_runs.run_due(context)
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


async def test_an_update_is_scheduled_and_its_login_is_not_shown(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        body = {"image": "ghcr.io/me/app:new", "env": {"MODE": "night"}, "image_login": "-u me -p swordfish ghcr.io"}
        job_id = await schedule(market, job(instance_id, "update_template", body))
        (row,) = await shown(market)
        later = {**row["request_body"], "env": {"MODE": "day"}}
        kept = await market.renter.call("PUT", f"{PATH}{job_id}/", {**row, "request_body": later})
        elsewhere = {**later, "image": "registry.example.com/app"}
        refused = await market.renter.call("PUT", f"{PATH}{job_id}/", {**row, "request_body": elsewhere})

        await pass_time(market, HOUR_S)

        assert row["request_body"]["image_login"] == "(hidden)"
        assert kept.status == 200, kept.body
        assert (refused.status, refused.body["error"]) == (400, "schedule_invalid")
        after = await contract_of(market, instance_id)
        assert (after.generation, after.spec.image) == (2, "ghcr.io/me/app:new")
        assert dict(after.spec.env)["MODE"] == "day"
        async with market.context.engine.begin() as tx:
            login = await rentals.registry_login(market.context, tx, instance_id)
        assert login is not None
        assert (login.username, login.password) == ("me", "swordfish")


async def test_a_password_that_is_sent_back_as_it_is_shown_stays(tmp_path: Path) -> None:
    """And it goes to no other registry or user."""
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        body = {"personal_repo": "me/saved", "docker_login_user": "me", "docker_login_pass": "swordfish"}
        job_id = await schedule(market, job(instance_id, "take_snapshot", body, request_method="POST"))
        (row,) = await shown(market)
        request = {**row["request_body"], "pause": "false"}
        assert request["docker_login_pass"] == "(hidden)"

        kept = await market.renter.call("PUT", f"{PATH}{job_id}/", {**row, "request_body": request})
        elsewhere = {**request, "container_registry": "registry.example.com"}
        refused = await market.renter.call("PUT", f"{PATH}{job_id}/", {**row, "request_body": elsewhere})

        assert kept.status == 200, kept.body
        assert (refused.status, refused.body["error"]) == (400, "schedule_invalid")
        assert "docker_login_pass" in refused.body["msg"]
        async with market.context.engine.begin() as tx:
            sealed = (await tx.execute(sa.select(scheduled_jobs.c.request_body))).scalar_one()
        clear = sealing.unseal(market.context.signing_key, sealed, scheduled.BODIES)
        assert clear is not None
        assert json.loads(clear) == {"instance_id": instance_id, **body, "pause": "false"}


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


async def test_a_slow_run_holds_up_nobody_and_an_unexpected_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rented_market(tmp_path) as market:
        instances = [await rent(market) for _ in range(5)]
        for one in instances:
            await schedule(market, job(one))
        others_are_done, send = asyncio.Event(), scheduled_requests.send

        async def waits(context: Context, caller: Caller, wanted: Wanted) -> Any:
            if wanted.instance_id == instances[0]:
                await asyncio.wait_for(others_are_done.wait(), 30)
                raise RuntimeError("a bug")
            answer = await send(context, caller, wanted)
            if wanted.instance_id == instances[-1]:
                others_are_done.set()
            return answer

        monkeypatch.setattr(scheduled_requests, "send", waits)
        await pass_time(market, HOUR_S)

        assert [await reboots(market, one) for one in instances] == [0, 1, 1, 1, 1]
        assert (await shown(market))[0]["last_result"] == "failed: an unexpected error of the marketplace"


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
            patched.setattr(scheduled_requests, "send", kill)
            with pytest.raises(Killed):
                await scheduled_runs.run_due(market.context)
        await scheduled_runs.run_due(market.context)

        assert await reboots(market, instance_id) == 0
        (row,) = await shown(market)
        assert row["last_result"] == "sent"
        assert row["next_run_time"] == START.timestamp() + 2 * HOUR_S
