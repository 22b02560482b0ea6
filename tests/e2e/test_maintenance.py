"""Maintenance and drain with the unmodified client and the real command: announced, kept free, waited for, lifted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.e2e.flows import raw
from tests.e2e.rented import SLEEP, destroy, process, refusal, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(docker_host, tmp_path_factory.mktemp("maintenance")) as stack:
        stack.list_machine()
        yield stack


def schedule(stack: Stack, start_s: int, hours: str) -> subprocess.CompletedProcess[str]:
    argv = ("schedule", "maint", str(stack.machine_id), "--sdate", str(start_s), "--duration", hours)
    return stack.host.run(*argv, "--maintenance_category", "power", stdin="y\n")


def maints(stack: Stack) -> list[dict[str, object]]:
    found: list[dict[str, object]] = raw(stack.host.run("show", "maints", "--ids", str(stack.machine_id), "--raw"))
    return found


def drain(stack: Stack, *args: str) -> subprocess.CompletedProcess[str]:
    return stack.kaalia("drain", *args, "--config", str(stack.config_file))


def waiting(stack: Stack) -> "subprocess.Popen[str]":
    """`kaalia drain` as it waits, its words so far read."""
    argv = [sys.executable, "-m", "kaalia.cli.main", "drain", "--config", str(stack.config_file)]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("Waiting"):
            return child
    raise AssertionError("drain did not wait")


def test_a_window_is_announced_kept_free_and_cancelled(stack: Stack) -> None:
    tenant = rent(stack)
    stack.wait_status(tenant, "running")
    before = process(stack, tenant)
    start_s = int(time.time()) + 2 * 3600
    assert "success" in schedule(stack, start_s, "1.5").stdout
    (window,) = maints(stack)
    assert (window["start_time"], window["duration_hours"], window["maintenance_category"]) == (start_s, 1.5, "power")
    shown = stack.host.run("show", "maints", "--ids", str(stack.machine_id)).stdout
    assert datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%d/%H:%M") in shown

    row = raw(stack.renter.run("show", "instance", str(tenant), "--raw"))
    assert row["machine_maintenance"][0]["start_time"] == start_s
    assert row["status_msg"].startswith("maintenance from ")
    table = stack.renter.run("show", "instances", "-v", "--cols", "id,status,msg").stdout
    assert "maintenance from" in table
    wait_until("the machine to know it", lambda: "power" in stack.kaalia(*status(stack)).stdout, 30)

    offers = raw(stack.renter.run("search", "offers", "verified=any", "--raw"))
    assert {offer["end_date"] for offer in offers} == {start_s}
    short = rent(stack)
    assert stack.wait_status(short, "running")["end_date"] == start_s
    destroy(stack, short)

    assert raw(stack.host.run("show", "machine", str(stack.machine_id), "--raw"))[0]["machine_maintenance"]
    stack.host.run("cancel", "maint", str(stack.machine_id), stdin="y\n")
    assert maints(stack) == []
    assert (stack.instance(tenant) or {})["machine_maintenance"] is None
    assert process(stack, tenant) == before
    destroy(stack, tenant)


def test_a_create_that_would_overlap_is_refused(stack: Stack) -> None:
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 30)
    tenant = rent(stack)
    stack.wait_status(tenant, "running")
    before = process(stack, tenant)
    offer = wait_until("another offer", lambda: stack.rentable_offer(1), 30)
    schedule(stack, int(time.time()) + 5, "2")

    done = stack.renter.run("create", "instance", str(offer), "--image", DEMO_IMAGE, "--disk", "1")
    assert "its owner works on it from" in done.stdout + done.stderr
    answer = refusal(stack.renter_api.call("PUT", f"/api/v0/asks/{offer}/", SLEEP))
    assert answer[:2] == (410, "maintenance_overlap")
    bid = refusal(stack.renter_api.call("PUT", f"/api/v0/asks/{offer}/", {**SLEEP, "price": 9}))
    assert bid[:2] == (410, "maintenance_overlap")
    assert stack.rentable_offer() is None
    job = ("set", "defjob", str(stack.machine_id), "--price_gpu", "0.05", "--price_inetu", "0", "--price_inetd", "0")
    refused = stack.host.run(*job, "--image", DEMO_IMAGE)
    assert "cannot set the default job" in refused.stdout + refused.stderr

    time.sleep(6)
    assert process(stack, tenant) == before, "the window has begun, and nothing was stopped"
    stack.host.run("cancel", "maint", str(stack.machine_id), stdin="y\n")
    wait_until("offers to be back", stack.rentable_offer, 30)
    destroy(stack, tenant)


def test_drain_waits_for_a_tenant_and_offers_come_back_after_cancel(stack: Stack) -> None:
    tenant = rent(stack)
    stack.wait_status(tenant, "running")
    before = process(stack, tenant)
    child = waiting(stack)
    try:
        wait_until("the offers to go", lambda: stack.rentable_offer() is None, 15)
        status_ = drain(stack, "--status")
        assert status_.returncode == 1
        assert f"{tenant}  on_demand  running" in status_.stdout
        assert "draining" in stack.kaalia(*status(stack)).stdout
        (row,) = raw(stack.host.run("show", "machine", str(stack.machine_id), "--raw"))
        assert row["error_description"] == "draining until the owner lifts it"
        assert process(stack, tenant) == before
        assert child.poll() is None
        destroy(stack, tenant)
        rest = child.communicate(timeout=30)[0]
    finally:
        child.kill()

    assert child.returncode == 0
    assert f"Contract {tenant} holds it no more, 0 left." in rest
    assert rest.rstrip().endswith("Vacant. The cordon stands; lift it with: kaalia drain --cancel")
    assert stack.rentable_offer() is None
    found = json.loads(drain(stack, "--status", "--json").stdout)
    assert (found["is_vacant"], found["is_in_force"]) == (True, True)
    assert drain(stack, "--cancel").returncode == 0
    wait_until("offers to be back", stack.rentable_offer, 15)


def test_the_cordon_outlives_ctrl_c_and_a_killed_daemon(stack: Stack) -> None:
    tenant = rent(stack)
    stack.wait_status(tenant, "running")
    before = process(stack, tenant)
    child = waiting(stack)
    stack.kill_daemon()
    time.sleep(2)
    stack.start_daemon()
    wait_until("the daemon to answer", lambda: drain(stack, "--status").returncode == 1, 30)
    assert child.poll() is None, "it waits for the daemon"
    child.send_signal(signal.SIGINT)
    rest = child.communicate(timeout=15)[0]

    assert child.returncode == 1
    assert "The daemon does not answer. The cordon stands" in rest
    assert "The cordon stands, nothing new is admitted" in rest
    assert stack.rentable_offer() is None
    assert process(stack, tenant) == before
    drain(stack, "--cancel")
    wait_until("offers to be back", stack.rentable_offer, 15)
    destroy(stack, tenant)


def test_the_owners_job_gives_way_to_the_drain_and_comes_back(stack: Stack) -> None:
    job = ("set", "defjob", str(stack.machine_id), "--price_gpu", "0.05", "--price_inetu", "0", "--price_inetd", "0")
    done = stack.host.run(*job, "--image", DEMO_IMAGE, "--args", "sleep", "9999")
    assert "bids created" in done.stdout, done.stdout + done.stderr
    wait_until("the jobs to run", lambda: running(stack) == 2, 60)

    assert drain(stack).returncode == 0
    assert running(stack) == 0
    drain(stack, "--cancel")
    wait_until("the jobs to come back", lambda: running(stack) == 2, 60)
    stack.host.run("remove", "defjob", str(stack.machine_id))
    wait_until("the jobs to go", lambda: running(stack) == 0, 60)


def running(stack: Stack) -> int:
    found = stack.engine.request("GET", "/containers/json")
    return sum(name.startswith("/C.") for one in found for name in one["Names"])


def status(stack: Stack) -> tuple[str, ...]:
    return ("status", "--config", str(stack.config_file))
