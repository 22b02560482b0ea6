"""A lease of seconds, through the real client: it ends on time without the marketplace; a later end revives it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from kaalia.clock import SystemClock
from tests.e2e.rented import destroy, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(200)]

LEASE_S = 25.0
STOP_S = 12.0
"""Docker gives a process 10 s to go."""


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(docker_host, tmp_path_factory.mktemp("lease"), gpus="1xRTX_4090") as stack:
        yield stack


def list_for(stack: Stack, seconds: float) -> tuple[float, str]:
    """List until then, as the owner does; the end as an epoch, and what the client printed."""
    end_s = SystemClock().now().timestamp() + seconds
    done = stack.host.run("list", "machine", str(stack.machine_id), "--price_gpu", "0.4", "--end_date", str(end_s))
    assert "success" in done.stdout or "offers created" in done.stdout, (done.stdout, done.stderr)
    return end_s, done.stdout


def state(stack: Stack, instance_id: int) -> dict[str, str]:
    found: dict[str, str] = stack.engine.inspect(f"C.{instance_id}")["State"]
    return found


def test_a_lease_ends_on_time_offline_cannot_be_started_and_goes_on_when_extended(stack: Stack) -> None:
    end_s, _ = list_for(stack, LEASE_S)
    instance_id = rent(stack)
    row = stack.wait_status(instance_id, "running")
    assert row["end_date"] == pytest.approx(end_s, abs=1)
    stack.kill_marketplace()

    while (now_s := time.time()) < end_s - 1:
        assert state(stack, instance_id)["Running"], f"stopped {end_s - now_s:.1f} s early"
        time.sleep(0.2)
    wait_until("the lease to end", lambda: not state(stack, instance_id)["Running"], STOP_S + 5)
    finished = datetime.fromisoformat(state(stack, instance_id)["FinishedAt"][:19]).replace(tzinfo=UTC).timestamp()
    assert end_s - 1 <= finished <= end_s + STOP_S

    stack.start_marketplace()
    ended = stack.wait_status(instance_id, "stopped", 60)
    assert "the contract ended" in ended["status_msg"]
    refused = stack.renter.run("start", "instance", str(instance_id))
    assert "its contract expired" in refused.stdout + refused.stderr
    code, body = stack.renter_api.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "running"})
    assert (code, body["error"]) == (400, "contract_expired")
    time.sleep(2)
    assert not state(stack, instance_id)["Running"]

    _, printed = list_for(stack, 3600)
    assert "extended 1 client contracts" in printed
    stack.wait_status(instance_id, "running", 60)
    assert stack.engine.has_container(f"C.{instance_id}")
    destroy(stack, instance_id)
