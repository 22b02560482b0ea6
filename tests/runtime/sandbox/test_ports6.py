"""Who reaches a published port by IPv6, asked of the kernel itself, as `test_ports` does for IPv4."""

import os
import socket
import subprocess

import pytest

from kaalia.errors import WorkloadError
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.sandbox.port_rules import Publication
from tests.runtime.sandbox.conftest import Scene, gateway6
from tests.runtime.sandbox.test_ports import BINDINGS, MINE, OWN, Publishing
from tests.runtime.sandbox.test_ports import doors as doors4
from tests.support.neighbourhood import MACHINE_ON_LAN as LAN4
from tests.support.neighbourhood import Door, inside, knock
from tests.support.neighbourhood6 import MACHINE_ON_INTERNET, MACHINE_ON_LAN


def doors(*addresses: str) -> list[Door]:
    return [(kind, address, port) for address in addresses for kind, port in MINE]


OUTSIDE = doors(MACHINE_ON_LAN, MACHINE_ON_INTERNET)


class Publishing6(Publishing):
    """Both tenants have IPv6."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        subprocess.run(["ip6tables", "-P", "FORWARD", "DROP"], check=True)

    def clients(self) -> list[tuple[int, list[Door]]]:
        here = [*OUTSIDE, *doors(gateway6(self.scene.networks[0]))]
        return [(self.scene.around.lan, OUTSIDE), (self.scene.around.internet, OUTSIDE), (os.getpid(), here)]


@pytest.fixture
def publishing(scene6: Scene) -> Publishing6:
    return Publishing6(scene6)


def ip6tables(*words: str) -> None:
    subprocess.run(["ip6tables", *words], check=True)


async def table(name: str = "nat") -> dict[str, list[str]]:
    return {chain: [one.text for one in found] for chain, found in (await netfilter.saved(Family.IPV6, name)).items()}


async def test_nobody_answers_before(publishing: Publishing6) -> None:
    """Or else the other tests would prove nothing."""
    assert publishing.opened() == []


async def test_ports_answer_to_everybody_who_may_come_by_both_families(publishing: Publishing6) -> None:
    walls = publishing.scene.walls()
    await walls.stand(51)
    await walls.mend()

    await publishing.ports.stand(51)

    assert publishing.shut() == []
    assert not [door for door, opens in knock(publishing.scene.around.lan, doors4(LAN4)).items() if not opens]
    assert (await publishing.ports.mend()).chains == ()


async def test_loopback_refuses_at_once(publishing: Publishing6) -> None:
    """The kernel cannot lead ::1 elsewhere: a client must not wait for it, but go on to 127.0.0.1."""
    await publishing.ports.stand(51)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("::1", 40001), timeout=5)


async def test_a_neighbour_reaches_no_published_port(publishing: Publishing6) -> None:
    walls = publishing.scene.walls()
    await walls.stand(51)
    await walls.stand(52)
    await walls.mend()
    await publishing.ports.mend()
    first, second = publishing.scene.networks

    found = knock(
        publishing.scene.second, [*OUTSIDE, *doors(gateway6(first), gateway6(second)), ("tcp", first.address6, 80)]
    )

    assert not any(found.values())


async def test_from_outside_nothing_but_published_ports_is_reached(publishing: Publishing6) -> None:
    """Not even by the tenant's own address, where nobody drops what is forwarded."""
    ip6tables("-P", "FORWARD", "ACCEPT")
    direct: list[Door] = [("tcp", publishing.scene.networks[0].address6, 80)]
    assert all(knock(publishing.scene.around.lan, direct).values())

    await publishing.ports.stand(51)

    assert not any(knock(publishing.scene.around.lan, direct).values())
    assert all(knock(os.getpid(), direct).values())


FAULTS = {
    "filter": (["-F"],),
    "nat": (["-t", "nat", "-F"],),
    "both, and chains": (["-F"], ["-X"], ["-t", "nat", "-F"], ["-t", "nat", "-X"]),
    "a jump": (["-t", "nat", "-D", "OUTPUT", "-j", OWN.here],),
    "a foreign rule": (["-t", "nat", "-I", OWN.ports, "-j", "RETURN"],),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_change_by_somebody_else_is_repaired_and_told_once(publishing: Publishing6, fault: str) -> None:
    await publishing.ports.mend()
    assert publishing.shut() == []
    for words in FAULTS[fault]:
        ip6tables(*words)
    assert publishing.shut() != []

    first, second = await publishing.ports.mend(), await publishing.ports.mend()

    assert publishing.shut() == []
    assert first.chains != ()
    assert second.chains == ()


async def test_a_removed_contract_has_no_rules_and_the_others_keep_theirs(publishing: Publishing6) -> None:
    await publishing.ports.stand(51)
    publishing.wanted = [publishing.second]

    await publishing.ports.withdraw(51)

    assert [text for text in (await table())[OWN.ports] if "kaalia-51" in text] == []
    assert publishing.opened() == []
    assert all(knock(publishing.scene.around.lan, [("tcp", MACHINE_ON_LAN, 40002)]).values())
    assert (await publishing.ports.mend()).chains == ()


async def test_a_restarted_daemon_takes_away_what_a_removed_contract_left(publishing: Publishing6) -> None:
    await publishing.ports.stand(51)
    publishing.wanted = []

    again = publishing.hands()
    await again.mend()

    assert not any("DNAT" in text for text in (await table())[OWN.ports])
    inside(publishing.scene.first, "true")
    assert publishing.opened() == []


@pytest.mark.parametrize(("kind", "place"), [(socket.SOCK_STREAM, "40001/tcp"), (socket.SOCK_DGRAM, "40001/udp")])
async def test_a_program_s_port_is_named(publishing: Publishing6, kind: socket.SocketKind, place: str) -> None:
    with socket.socket(socket.AF_INET6, kind) as program:
        program.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        program.bind(("::", 40001))
        if kind is socket.SOCK_STREAM:
            program.listen()
        with pytest.raises(WorkloadError, match=place) as caught:
            await publishing.ports.stand(51)

    assert caught.value.code == "port_taken"


async def test_without_ipv6_in_any_network_nothing_of_it_is_touched(scene: Scene) -> None:
    publishing = Publishing(scene)

    await publishing.ports.stand(51)
    await publishing.ports.mend()

    assert OWN.ports not in await table()
    assert await table("filter") == {} or OWN.through not in await table("filter")


async def test_one_contract_has_ipv6_and_another_has_none(publishing: Publishing6) -> None:
    without = Publication(
        type(publishing.first.enclosure)(52, "br-second", "10.214.1.0/28"),
        "10.214.1.2",
        (PortBinding(80, 80, 40002, Protocol.TCP),),
    )
    publishing.wanted = [publishing.first, without]
    await publishing.ports.stand(51)
    await publishing.ports.stand(52)

    found = knock(publishing.scene.around.lan, [("tcp", LAN4, 40002), ("tcp", MACHINE_ON_LAN, 40002), *OUTSIDE])

    assert [door for door, opens in found.items() if not opens] == [("tcp", MACHINE_ON_LAN, 40002)]
    assert len(BINDINGS) == len([text for text in (await table())[OWN.ports] if "DNAT" in text])
