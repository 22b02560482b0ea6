"""A machine with two tenants, a LAN and the internet, all of them namespaces; no Docker."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kaalia.contracts.ports import ipv6_subnet
from kaalia.errors import WorkloadError
from kaalia.host.net import ROOT
from kaalia.runtime.sandbox.rules import Enclosure, Reach
from kaalia.runtime.sandbox.walls import Walls
from tests.support import neighbourhood, neighbourhood6
from tests.support.own_network import is_possible, own_network

MACHINE = "7@0123456789abcdef"
POOL = "10.214.0.0/16"


@dataclass
class Scene:
    """Processes of two tenants and of the internet, and the networks that the engine would list."""

    first: int
    second: int
    internet: int
    networks: list[Enclosure]
    around: neighbourhood.Around
    is_silent: bool = False
    """The engine does not answer."""

    def walls(self, reach: Reach | None = None, machine: str = MACHINE, root: Path = ROOT) -> Walls:
        async def look() -> list[Enclosure]:
            if self.is_silent:
                raise WorkloadError("engine_unavailable", "cannot list networks: the engine does not answer")
            return list(self.networks)

        return Walls(machine, reach or Reach(), POOL, look, root)


@pytest.fixture
def scene() -> Iterator[Scene]:
    if not is_possible():
        pytest.skip("needs network namespaces: run scripts/test as root")
    with (
        own_network(),
        neighbourhood.neighbourhood() as around,
        neighbourhood.tenant("br-first", "10.214.0") as first,
        neighbourhood.tenant("br-second", "10.214.1") as second,
        neighbourhood.the_machine(),
    ):
        networks = [Enclosure(51, "br-first", "10.214.0.0/28"), Enclosure(52, "br-second", "10.214.1.0/28")]
        yield Scene(first, second, around.internet, networks, around)


@pytest.fixture
def scene6(scene: Scene) -> Scene:
    """The same with IPv6 everywhere, in the tenants' networks too."""
    neighbourhood6.add_ipv6(scene.around)
    six = [replace(one, subnet6=ipv6_subnet(MACHINE, one.subnet)) for one in scene.networks]
    for pid, one in zip((scene.first, scene.second), six, strict=True):
        neighbourhood6.add_tenant(pid, one.bridge, gateway6(one), one.address6)
    scene.networks[:] = six
    neighbourhood6.settle(scene.first, scene.second, scene.around.lan, scene.around.internet)
    return scene


def gateway6(one: Enclosure) -> str:
    return one.address6.removesuffix("2") + "1"
