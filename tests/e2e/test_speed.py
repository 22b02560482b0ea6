"""Speed end to end: measured with the embedded marketplace, told by offers and the real client, tenants left alone."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy, process, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"docker": {"subnet_pool": "10.213.0.0/16"}, "speed": {"peer": "marketplace", "max_gb": 3}}
    folder = tmp_path_factory.mktemp("speed")
    with running_stack(docker_host, folder, config=config, port_range="22200-22239") as stack:
        stack.list_machine()
        yield stack


def speedtest(stack: Stack, *options: str) -> dict[str, Any]:
    done = stack.kaalia("speedtest", "--json", "--socket", str(stack.socket), *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["found"]
    return found


def offer(stack: Stack) -> dict[str, Any]:
    """What renters' searches see."""
    _, body = stack.renter_api.call("POST", "/api/v0/bundles/", {"machine_id": {"eq": stack.machine_id}})
    found: dict[str, Any] = body["offers"][0]
    return found


def peer_process(stack: Stack) -> int:
    """The marketplace's child that serves the bytes."""
    assert stack.marketplace is not None
    children = Path(f"/proc/{stack.marketplace.pid}/task/{stack.marketplace.pid}/children").read_text().split()
    named = [pid for pid in children if b"kaalia.speed.peer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(named[0])


def test_the_speed_is_measured_and_offers_and_the_real_client_say_so(stack: Stack) -> None:
    assert (offer(stack)["inet_down"], offer(stack)["inet_up"]) == (None, None), "nobody measured it"

    found = speedtest(stack)

    assert found["peer"] == stack.url
    down, up = round(found["down"]["mbps"], 1), round(found["up"]["mbps"], 1)
    wait_until("the offer to say it", lambda: (offer(stack)["inet_down"], offer(stack)["inet_up"]) == (down, up), 20)
    rows = stack.renter.json("search", "offers", f"machine_id={stack.machine_id} inet_down>100 verified=any")
    assert {(row["inet_down"], row["inet_up"]) for row in rows} == {(down, up)}
    assert stack.renter.json("search", "offers", f"machine_id={stack.machine_id} inet_up>900000 verified=any") == []
    table = stack.kaalia("speedtest", "--last", "--socket", str(stack.socket)).stdout
    assert "parallel TCP streams" in table
    assert f"{found['down']['mbps']:,.1f}" in table


def test_beside_a_tenant_the_owner_must_insist_and_the_tenant_notices_nothing(stack: Stack) -> None:
    instance = rent(stack)
    stack.wait_status(instance, "running")
    before = process(stack, instance)

    refused = stack.kaalia("speedtest", "--socket", str(stack.socket))
    assert refused.returncode == 1
    assert "[speed_tenants_run]" in refused.stderr
    assert "--force" in refused.stderr

    assert speedtest(stack, "--force")["down"]["mbps"] > 100
    assert process(stack, instance) == before
    destroy(stack, instance)


def test_a_peer_that_dies_is_told_and_comes_back(stack: Stack) -> None:
    known = speedtest(stack)
    os.kill(peer_process(stack), signal.SIGSTOP)
    done = stack.kaalia("speedtest", "--socket", str(stack.socket))
    assert done.returncode == 1
    assert "[speed_peer_down]" in done.stderr
    last = json.loads(stack.kaalia("speedtest", "--last", "--json", "--socket", str(stack.socket)).stdout)
    assert last["found"] == known, "no other number"

    assert speedtest(stack)["measured_at"] != known["measured_at"], "the marketplace has started another one"
