"""Scheduled jobs by the real client and a real machine: due while the marketplace is down, made up once, deleted."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaalia.marketplace.scheduled_runs import EVERY_S
from tests.e2e.rented import destroy, process, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.images import rootfs
from tests.support.registry import Mode, Registry
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

PATH = "/api/v0/commands/schedule_job/"
LEAST_AHEAD = timedelta(seconds=15)
"""From the first word of the test to the minute at which the jobs are due."""


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"docker": {"subnet_pool": "10.204.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("scheduled"), config=config) as stack:
        stack.list_machine()
        yield stack


def container(stack: Stack, instance: int) -> str:
    found = stack.engine.find(f"C.{instance}")
    return str(found["Id"]) if found else ""


def jobs(stack: Stack) -> list[dict[str, Any]]:
    return list(stack.renter.json("show", "scheduled-jobs"))


def test_what_was_due_in_an_outage_is_done_once(stack: Stack, registry: Registry) -> None:
    registry.mode = Mode.PLAIN
    image = registry.add("team/app", "latest", [rootfs()])
    rebooted, recycled = rent(stack), rent(stack, image=image)
    for one in (rebooted, recycled):
        stack.wait_status(one, "running")
    due = (datetime.now(UTC) + LEAST_AHEAD).replace(second=0, microsecond=0) + timedelta(minutes=1)
    end = due + timedelta(days=1)
    by_hand = process(stack, rebooted)

    said = stack.renter.run(
        *("reboot", "instance", str(rebooted), "--schedule", "HOURLY", "--day", "*", "--hour", "*"),
        *("--start_date", f"{due:%Y-%m-%d %H:%M:%S}", "--end_date", f"{end:%Y-%m-%d}"),
    )
    assert "insert: success - Scheduling HOURLY job to reboot instance" in said.stdout, said
    wait_until("the reboot that the client asks for beside it", lambda: process(stack, rebooted) != by_hand, 30)
    stack.wait_status(rebooted, "running")
    wanted = {
        "start_time": due.timestamp(),
        "end_time": end.timestamp(),
        "api_endpoint": f"/api/v0/instances/recycle/{recycled}/",
        "request_method": "PUT",
        "request_body": {},
        "frequency": "HOURLY",
        "instance_id": recycled,
    }
    assert stack.renter_api.call("POST", PATH, wanted)[0] == 200
    before = {one: (container(stack, one), process(stack, one)) for one in (rebooted, recycled)}
    assert [row["next_run_time"] for row in jobs(stack)] == [due.timestamp()] * 2

    stack.kill_marketplace()
    time.sleep(max((due - datetime.now(UTC)).total_seconds(), 0) + 1)
    assert {one: (container(stack, one), process(stack, one)) for one in before} == before
    stack.start_marketplace()

    wait_until("the reboot", lambda: process(stack, rebooted) != before[rebooted][1], EVERY_S + 30)
    wait_until("the recycle", lambda: container(stack, recycled) not in ("", before[recycled][0]), EVERY_S + 30)
    for one in before:
        stack.wait_status(one, "running")
    after = {one: (container(stack, one), process(stack, one)) for one in before}
    assert after[rebooted][0] == before[rebooted][0], "rebooted, not made anew"
    time.sleep(2 * EVERY_S + 1)
    assert {one: (container(stack, one), process(stack, one)) for one in before} == after
    rows = jobs(stack)
    assert [row["last_result"] for row in rows] == [
        f"instance {rebooted} is rebooting",
        f"instance {recycled} is recycling",
    ]
    assert [row["next_run_time"] for row in rows] == [(due + timedelta(hours=1)).timestamp()] * 2

    assert stack.host_api.call("DELETE", f"{PATH}{rows[0]['id']}/", {})[1]["error"] == "no_such_scheduled_job"
    destroy(stack, recycled)
    assert [row["instance_id"] for row in jobs(stack)] == [rebooted]
    stack.renter.run("delete", "scheduled-job", str(rows[0]["id"]))
    assert jobs(stack) == []
    destroy(stack, rebooted)
