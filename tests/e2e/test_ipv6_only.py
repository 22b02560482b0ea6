"""Machines whose only way out is by IPv6: enrolled, told by that address, their ports proven and used by it."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.flows import SERVE_ENV, host_port
from tests.e2e.rented import rent, running_stack
from tests.e2e.test_address import Scene, kaalia
from tests.support.docker_engine import PrivateDocker
from tests.support.neighbourhood import cable, host, inside, ip
from tests.support.networks import Networks, is_possible, networks
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not is_possible(), reason="needs network namespaces: run by scripts/sandbox"),
]

MARKET, HERE, LATER = "2600:9::4", "2600:1::7", "2600:1::9"
OURS, THEIRS = "2600:203::1", "2600:203::2"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with networks() as nets:
        nets.machine("isp")
        nets.run("isp", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        for name, gateway, address in (("market", "2600:9::1", MARKET), ("host", "2600:1::1", HERE)):
            nets.machine(name)
            nets.cable("isp", f"{gateway}/64", name, f"{address}/64")
            nets.run(name, "ip", "-6", "route", "replace", "default", "via", gateway)
        for name in ("market", "host"):
            wait_until("addresses", partial(is_settled, nets, name), 10)
        yield Scene(nets, tmp_path, MARKET)


def is_settled(nets: Networks, name: str) -> bool:
    return not nets.run(name, "ip", "-6", "address", "show", "tentative")


def test_it_is_told_and_its_ports_are_proven_by_ipv6_and_a_change_is_noticed(scene: Scene) -> None:
    scene.start()
    scene.follows(HERE)
    probe = kaalia("ports", "--probe", "--json", "--socket", str(scene.socket))

    found = json.loads(scene.nets.run("host", *probe))["found"]

    assert (found["address"], found["routed_ip"], found["findings"]) == (HERE, HERE, [])
    assert {(one["protocol"], one["state"], one["last"] - one["first"]) for one in found["spans"]} == {
        ("tcp", "open", 7),
        ("udp", "open", 7),
    }
    scene.nets.run("host", "ip", "-6", "address", "delete", f"{HERE}/64", "dev", "isp")
    scene.nets.run("host", "ip", "-6", "address", "add", f"{LATER}/64", "dev", "isp", "nodad")
    scene.nets.run("host", "ip", "-6", "route", "replace", "default", "via", "2600:1::1")
    print(f"told after {scene.follows(LATER):.1f} s")


@pytest.fixture
def outside(docker_host: PrivateDocker) -> Iterator[int]:
    """A host of the internet, to which this machine has IPv6 alone."""
    with host() as pid:
        cable(pid, "six0", "", [], "")
        ip("-6", "address", "add", f"{OURS}/64", "dev", "six0", "nodad")
        inside(pid, "ip", "-6", "address", "add", f"{THEIRS}/64", "dev", "eth0", "nodad")
        ip("-6", "route", "add", "default", "via", THEIRS)
        try:
            yield pid
        finally:
            ip("link", "delete", "six0")


@pytest.fixture
def stack(docker_host: PrivateDocker, outside: int, tmp_path: Path) -> Iterator[Stack]:
    config = {"intervals": {"report_s": 1}, "docker": {"subnet_pool": "10.213.0.0/16"}}
    with running_stack(docker_host, tmp_path, config=config, public_ip="auto") as stack:
        stack.list_machine()
        yield stack


@pytest.mark.docker
def test_it_is_rented_and_its_instances_are_reached_by_ipv6(stack: Stack, outside: int) -> None:
    number = rent(stack, env={"-p 8000:8000": "1"}, args=["sh", "-c", SERVE_ENV])
    row: dict[str, Any] = stack.wait_status(number, "running")
    port = host_port(row["ports"], "8000/tcp")

    assert row["public_ipaddr"] == OURS
    assert row["ports"]["8000/tcp"] == [{"HostIp": "::", "HostPort": str(port)}]
    url = f"http://[{OURS}]:{port}/env.txt"
    text = wait_until("the instance to answer", lambda: fetched(outside, url), 20)
    assert f"PUBLIC_IPADDR={OURS}\n" in text
    assert f"PUBLIC_IPADDR={OURS}\n" in (fetched(os.getpid(), url) or "")


def fetched(pid: int, url: str) -> str | None:
    try:
        return inside(pid, "curl", "-s", "-m", "5", "-g", url) or None
    except subprocess.CalledProcessError:
        return None
