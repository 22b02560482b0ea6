"""An owner's listing against contracts that run, through the real client: a dearer price, a machine's deletion."""

import json
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from kaalia.clock import SystemClock
from tests.e2e.rented import rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

LEASE_S = 35.0
STOP_S = 15.0
"""Docker gives a process 10 s to go."""


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(docker_host, tmp_path_factory.mktemp("listing")) as stack:
        yield stack


def list_until(stack: Stack, end_s: float, price: float) -> str:
    terms = ("--price_gpu", str(price), "--end_date", str(end_s))
    done = stack.host.run("list", "machine", str(stack.machine_id), *terms)
    assert "offers created" in done.stdout, (done.stdout, done.stderr)
    return done.stdout


def state(stack: Stack, instance_id: int) -> dict[str, Any]:
    found: dict[str, Any] = stack.engine.inspect(f"C.{instance_id}")["State"]
    return found


def run_lines(stack: Stack, instance_id: int) -> list[dict[str, Any]]:
    """What the GPUs of an instance cost so far, oldest first."""
    window = quote(json.dumps({"day": {"gte": 0, "lte": 32503680000}}))
    page = stack.renter_api.get(f"/api/v0/charges/?limit=100&select_filters={window}")
    [row] = [one for one in page["results"] if one["metadata"]["instance_id"] == instance_id]
    return [item for item in row["items"] if item["type"] == "gpu"]


def test_a_price_increase_ends_who_rejects_and_charges_who_accepts(stack: Stack) -> None:
    now_s = SystemClock().now().timestamp()
    end_s, later_s = now_s + LEASE_S, now_s + 3600
    list_until(stack, end_s, 0.4)
    goes_on, ends = rent(stack), rent(stack)
    for number in (goes_on, ends):
        stack.wait_status(number, "running")
    began = state(stack, goes_on)["StartedAt"]

    assert "extended" not in list_until(stack, later_s, 0.9)
    shown = stack.renter.json("show", "pending-price-increases")["pending_price_increases"]
    assert {row["contract_id"] for row in shown} == {goes_on, ends}
    assert {round(row["new_gpu_costpersec"] * 3600, 6) for row in shown} == {0.9}
    accepted = stack.renter.run("accept", "price-increase", str(goes_on), "--yes")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    rejected = stack.renter.run("reject", "price-increase", str(ends), "--yes")
    assert rejected.returncode == 0, rejected.stdout + rejected.stderr
    row = stack.instance(goes_on)
    assert row is not None
    assert (row["end_date"], row["dph_base"]) == (pytest.approx(later_s, abs=1), 0.4)

    wait_until("the rejected contract to end", lambda: not state(stack, ends)["Running"], LEASE_S + STOP_S, 0.2)
    assert SystemClock().now().timestamp() >= end_s - 1
    wait_until("the new price to hold", lambda: (stack.instance(goes_on) or {})["dph_base"] == 0.9, 30, 0.2)
    assert SystemClock().now().timestamp() >= end_s
    assert state(stack, goes_on)["Running"]
    assert state(stack, goes_on)["StartedAt"] == began

    stack.renter.run("stop", "instance", str(goes_on))
    stack.wait_status(goes_on, "stopped", 60)
    before, after = run_lines(stack, goes_on)
    assert (before["end"], after["start"]) == (pytest.approx(end_s, abs=0.001), pytest.approx(end_s, abs=0.001))
    for line, price in ((before, 0.4), (after, 0.9)):
        assert line["amount"] == pytest.approx((line["end"] - line["start"]) * price / 3600, abs=1e-8)
    [last] = run_lines(stack, ends)
    assert last["end"] <= end_s + 0.001
    stack.renter.run("start", "instance", str(goes_on))
    stack.wait_status(goes_on, "running")


def test_a_deleted_machine_removes_its_tenants_and_is_turned_away_until_it_enrols_again(stack: Stack) -> None:
    tenants = [row["id"] for row in stack.renter_api.get("/api/v1/instances/")["instances"]]
    assert len(tenants) == 2
    stack.kill_daemon()
    done = stack.host.run("delete", "machine", str(stack.machine_id))
    assert f"deleted machine_id ({stack.machine_id})" in done.stdout, done.stderr
    assert stack.host.json("show", "machines") == {"machines": []}
    assert stack.renter_api.get("/api/v1/instances/")["instances"] == []
    # The machine has not heard of it: whoever runs there runs on.
    assert any(state(stack, number)["Running"] for number in tenants)

    stack.start_daemon()
    wait_until(
        "the containers to go",
        lambda: not any(stack.engine.has_container(f"C.{number}") for number in tenants),
        60,
        0.2,
    )
    wait_until("the machine to be turned away", lambda: "machine_deleted" in stack.log_text("daemon"), 90, 0.5)
    stack.kill_daemon(signal.SIGTERM)
    (stack.folder / "state" / "state.db").rename(stack.folder / "old.db")
    again = stack.kaalia(
        "enroll", stack.url, "-", "--recover", "--config", str(stack.config_file), "--json", stdin=stack.enroll_token()
    )
    assert json.loads(again.stdout)["machine_id"] == stack.machine_id, again.stderr
    stack.start_daemon()
    wait_until("a report", stack.reported, 30)
    list_until(stack, SystemClock().now().timestamp() + 3600, 0.4)
    stack.wait_status(rent(stack), "running")
