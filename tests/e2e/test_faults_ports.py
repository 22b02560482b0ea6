"""Host ports over many rentals and restarts: never two owners, and never one that the host itself uses."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.rented import destroy, listening, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

RENTALS = 20
AT_ONCE = 4
FIRST = 22000
FOREIGN = range(FIRST, FIRST + 6)
"""Ports of a program of the host's own, within the range: 18 are left for the 12 that are in use at once."""


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("ports")
    with running_stack(docker_host, folder, f"{AT_ONCE}xRTX_4090", port_range=f"{FIRST}-{FIRST + 23}") as stack:
        stack.list_machine()
        yield stack


def test_no_port_has_two_owners_over_rentals_and_restarts(stack: Stack) -> None:
    env = "-p 80:80 -p 81:81 -p 53:53/udp -p 70000:70000"
    live: list[int] = []
    given: list[int] = []
    with listening(*FOREIGN):
        for number in range(RENTALS):
            if len(live) == AT_ONCE:
                destroy(stack, live.pop(0))
            live.append(rent(stack, env=env, label=str(number)))
            if number % 5 == 2:
                stack.kill_daemon()
                stack.start_daemon()
            if number % 2:
                given += check(stack, live)
    assert len(given) >= RENTALS
    assert not set(given) & set(FOREIGN)
    destroy(stack, *live)


def check(stack: Stack, live: list[int]) -> list[int]:
    """All of them run; what the kernel leads to them is exactly what the renters read, and has one owner each."""
    owners: dict[tuple[str, str], int] = {}
    for instance_id in live:
        row = stack.wait_status(instance_id, "running", 30)
        found = stack.engine.inspect(f"C.{instance_id}")
        assert not found["HostConfig"]["PortBindings"]
        pause = stack.engine.inspect(f"kaalia-sandbox-{instance_id}")
        (network,) = pause["NetworkSettings"]["Networks"].values()
        bindings = led(network["IPAddress"])
        assert bindings == row["ports"]
        assert len(bindings) == 4
        for name, (binding,) in bindings.items():
            place = (name.partition("/")[2], binding["HostPort"])
            assert place not in owners, f"{place} of {instance_id} and {owners[place]}"
            owners[place] = instance_id
    return [int(port) for protocol, port in owners if protocol == "tcp"]


def led(address: str) -> dict[str, list[dict[str, str]]]:
    """Ports of the machine that lead to an address, in Docker's form."""
    saved = subprocess.run(["iptables-save", "-t", "nat"], check=True, capture_output=True, text=True).stdout
    rule = rf"-p (tcp|udp) .*--dport (\d+) .*-j DNAT --to-destination {re.escape(address)}:(\d+)"
    found = re.findall(rule, saved)
    return {f"{inner}/{protocol}": [{"HostIp": "0.0.0.0", "HostPort": outer}] for protocol, outer, inner in found}
