"""Ports end to end: the embedded marketplace tries them, a tenant is not disturbed, and offers say what was proven."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.rented import destroy, listening, process, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

FIRST, LAST = 22100, 22139
COUNT = LAST - FIRST + 1


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"intervals": {"report_s": 1}, "docker": {"subnet_pool": "10.211.0.0/16"}}
    folder = tmp_path_factory.mktemp("reach")
    with running_stack(docker_host, folder, config=config, port_range=f"{FIRST}-{LAST}") as stack:
        stack.list_machine()
        yield stack


def probe(stack: Stack) -> dict[str, Any]:
    done = stack.kaalia("ports", "--probe", "--json", "--socket", str(stack.socket))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["found"]
    return found


def direct_ports(stack: Stack) -> int:
    """What renters' searches see."""
    query = {"machine_id": {"eq": stack.machine_id}}
    _, body = stack.renter_api.call("POST", "/api/v0/bundles/", query)
    return int(body["offers"][0]["direct_port_count"])


def spans(found: dict[str, Any], state: str) -> list[tuple[int, str, str]]:
    return [(one["first"], one["protocol"], one["detail"]) for one in found["spans"] if one["state"] == state]


def test_the_marketplace_proves_every_port_and_offers_say_so(stack: Stack) -> None:
    assert direct_ports(stack) == COUNT, "before the first probe it is the range"

    found = probe(stack)

    assert (found["address"], found["prober"], found["findings"]) == ("127.0.0.1", stack.url, [])
    assert [(one["first"], one["last"], one["protocol"], one["state"]) for one in found["spans"]] == [
        (FIRST, LAST, "tcp", "open"),
        (FIRST, LAST, "udp", "open"),
    ]
    with listening(FIRST + 5, FIRST + 6):
        used = probe(stack)
        assert [(port, protocol) for port, protocol, _ in spans(used, "held")] == [(FIRST + 5, "tcp")], "both in one"
        assert "used by" in spans(used, "held")[0][2]
        wait_until("the offer to say it", lambda: direct_ports(stack) == COUNT - 2, 20)
        told = status(stack)
        assert told is not None
        assert "ports_in_use" in {one.code for one in told.warnings}
    probe(stack)
    wait_until("the offer to say it", lambda: direct_ports(stack) == COUNT, 20)
    table = stack.kaalia("ports", "--socket", str(stack.socket)).stdout
    assert f"{COUNT} of {COUNT} TCP, {COUNT} of {COUNT} UDP" in table


def test_a_tenant_keeps_his_ports_and_notices_nothing(stack: Stack) -> None:
    instance = rent(stack, env="-p 80:80 -p 53:53/udp")
    row = stack.wait_status(instance, "running")
    before = process(stack, instance)
    port = int(row["ports"]["80/tcp"][0]["HostPort"])

    found = probe(stack)

    held = spans(found, "held")
    assert (port, "tcp", f"C.{instance}") in held
    assert len(held) == 2
    assert process(stack, instance) == before
    wait_until("held ports to count", lambda: direct_ports(stack) == COUNT, 20)
    destroy(stack, instance)


def test_who_rents_in_the_middle_of_a_probe_gets_his_ports(stack: Stack) -> None:
    """One probe after the other, and rentals that want half of the range meanwhile."""
    wanted = " ".join(f"-p {1000 + number}:{1000 + number}" for number in range(COUNT // 2))
    maps: list[dict[str, Any]] = []
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            maps.append(probe(stack))

    worker = threading.Thread(target=go_on)
    worker.start()
    try:
        rentals = 0
        while rentals < 4 or len(maps) < 4:
            instance = rent(stack, env=wanted)
            assert len(stack.wait_status(instance, "running")["ports"]) == COUNT // 2
            destroy(stack, instance)
            rentals += 1
    finally:
        is_over.set()
        worker.join()
    assert not [one["findings"] for one in maps if one["findings"]]
    assert [one["state"] for one in probe(stack)["spans"]] == ["open", "open"]
