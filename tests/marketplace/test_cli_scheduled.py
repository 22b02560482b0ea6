"""Scheduled jobs with the real client: `--schedule` of its four commands, the list, and the deletion."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kaalia.marketplace import scheduled_runs
from kaalia.wire.protocol import TaskResult
from tests.marketplace.renting import contract_of, hear_of, rent, rented_market
from tests.marketplace.scheduling import HOUR_S, pass_time
from tests.marketplace.support import Client
from tests.marketplace.test_clouds import connect
from tests.marketplace.test_copies import answered
from tests.support.clock import START

EVERY_HOUR = ("--schedule", "HOURLY", "--day", "*", "--hour", "*")
FROM_TO = ("--start_date", "2026-01-01", "--end_date", "2026-01-20")
"""The clock of these tests stands at START; by itself the client sends the days from now on."""


async def scheduled(client: Client, *words: str, stdin: str | None = None) -> str:
    done = await client.run(*words, *FROM_TO, stdin=stdin)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done
    return done.stdout + done.stderr


async def rows(client: Client) -> list[dict[str, Any]]:
    return list(await client.json("show", "scheduled-jobs"))


async def test_reboot_is_scheduled_listed_run_and_deleted(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter, instance_id = market.client(market.renter), await rent(market)

        said = await scheduled(renter, "reboot", "instance", str(instance_id), *EVERY_HOUR)
        assert "insert: success - Scheduling HOURLY job to reboot instance" in said
        shown = await renter.run("show", "scheduled-jobs")
        assert shown.returncode == 0, shown.stderr
        for word in (
            f"/api/v0/instances/reboot/{instance_id}/",
            "Everyday",
            "Every_hour",
            "2026-01-20/00:00",
            "HOURLY",
        ):
            assert word in shown.stdout, shown.stdout

        before = (await contract_of(market, instance_id)).restart_count
        await pass_time(market, HOUR_S)
        assert (await contract_of(market, instance_id)).restart_count == before + 1
        (row,) = await rows(renter)
        deleted = await renter.run("delete", "scheduled-job", str(row["id"]))
        assert "'success': True" in deleted.stdout
        assert await rows(renter) == []


async def test_bids_by_day_and_by_night(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter, instance_id = market.client(market.renter), await rent(market, price=0.2)
        bid = ("change", "bid", str(instance_id), "--schedule", "DAILY", "--day", "*")

        await scheduled(renter, *bid, "--price", "0.15", "--hour", "8")
        await scheduled(renter, *bid, "--price", "0.35", "--hour", "20")

        await pass_time(market, 8 * HOUR_S)
        assert str((await contract_of(market, instance_id)).price_usd_per_hour) == "0.35"
        await pass_time(market, 12 * HOUR_S)
        assert str((await contract_of(market, instance_id)).price_usd_per_hour) == "0.15"


async def test_execute_weekly(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter, instance_id = market.client(market.renter), await rent(market)

        said = await scheduled(
            renter,
            "execute",
            str(instance_id),
            "rm -rf /tmp/cache",
            "--schedule",
            "WEEKLY",
            "--day",
            "0",
            "--hour",
            "4",
        )
        assert "insert: success" in said
        (row,) = await rows(renter)
        assert (row["day_of_the_week"], row["hour_of_the_day"], row["request_body"]["command"]) == (
            0,
            4,
            "rm -rf /tmp/cache",
        )
        assert datetime.fromtimestamp(row["next_run_time"], UTC) == datetime(2026, 1, 4, 4, tzinfo=UTC)


async def test_a_backup_to_a_cloud_every_day(tmp_path: Path) -> None:
    """The client asks first, because of what traffic costs."""
    async with rented_market(tmp_path) as market:
        renter, instance_id = market.client(market.renter), await rent(market)
        assert (await connect(market)).status == 200
        words = [*("--src", "/work", "--dst", "bucket/x", "--instance", str(instance_id), "--connection", "1")]
        words += ["--transfer", "Instance To Cloud", "--schedule", "DAILY", "--day", "*", "--hour", "13"]

        said = await scheduled(renter, "cloud", "copy", *words, stdin="y\n")
        assert "insert: success - Scheduling DAILY job to cloud copy" in said
        market.clock.advance(HOUR_S)
        await hear_of(market)
        task, _ = await answered(market, TaskResult("begun"), scheduled_runs.run_due(market.context))

        assert task.cloud is not None
        assert (task.cloud.place.path, task.cloud.cloud, task.cloud.path) == ("/work", "s3.1", "bucket/x")
        (row,) = await rows(renter)
        assert row["last_result"].endswith("has begun")
        other = {**row, "request_body": {**row["request_body"], "instance_id": str(instance_id + 1)}}
        refused = await market.renter.call("PUT", f"/api/v0/commands/schedule_job/{row['id']}/", other)
        assert refused.body["error"] == "schedule_invalid"


async def test_what_the_client_sends_by_itself(tmp_path: Path) -> None:
    """Without dates: from today until a week later, by the client's clock."""
    async with rented_market(tmp_path) as market:
        market.clock.advance((datetime.now(UTC) - START).total_seconds())
        await hear_of(market)
        renter, instance_id = market.client(market.renter), await rent(market)

        done = await renter.run("reboot", "instance", str(instance_id), "--schedule", "WEEKLY")

        assert "insert: success" in done.stdout, done
        (row,) = await rows(renter)
        assert row["next_run_time"] <= row["end_time"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--start_date", "2025-01-01", "--end_date", "2025-02-01"), "end_time 2025-02-01 00:00 UTC is past"),
        (("--start_date", "2026-01-01", "--end_date", "2999-01-01"), "over 3660 days ahead"),
    ],
)
async def test_a_refusal_is_printed_with_its_remedy(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        done = await market.client(market.renter).run("reboot", "instance", str(instance_id), *EVERY_HOUR, *words)

        assert said in done.stdout + done.stderr


async def test_the_sdk_makes_changes_and_deletes_jobs(tmp_path: Path) -> None:
    """Recycle, too, which the program itself cannot schedule."""
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        script = f"""
import json, os
from vastai import VastAI
sdk = VastAI(server_url=os.environ["VAST_URL"], raw=True, quiet=True)
start = {START.timestamp()}
made = sdk.create_scheduled_job(start, start + 30 * 86400, "/api/v0/instances/recycle/{instance_id}/", "PUT",
    {{"instance_id": {instance_id}}}, "WEEKLY", {instance_id}, day_of_the_week=0, hour_of_the_day=4)
sdk.update_scheduled_job(made["id"], {{"instance_id": {instance_id}}}, hour_of_the_day=5)
rows = sdk.show_scheduled_jobs()
sdk.delete_scheduled_job(made["id"])
print(json.dumps([[row["hour_of_the_day"] for row in rows], sdk.show_scheduled_jobs()]))
"""
        done = await market.client(market.renter).python(script)

        assert done.stdout.strip().splitlines()[-1:] == ["[[5], []]"], done.stderr
