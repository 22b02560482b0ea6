"""Who reaches a published port, asked of the kernel itself: from outside, from the machine and from loopback."""

import os
import socket
import subprocess
from collections.abc import Sequence

import pytest

from kaalia.errors import HostError, WorkloadError
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.model.workload import PortBinding, Protocol
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.ports import Ports
from kaalia.runtime.sandbox.rules import Reach
from tests.runtime.sandbox.conftest import MACHINE, POOL, Scene
from tests.support.neighbourhood import LAN, MACHINE_ON_INTERNET, MACHINE_ON_LAN, Door, inside, knock

OWN = rules.names(MACHINE)
BINDINGS = (
    PortBinding(80, 80, 40001, Protocol.TCP),
    PortBinding(4433, 4433, 40001, Protocol.UDP),
    PortBinding(70000, 8080, 8081, Protocol.TCP),
)
MINE = (("tcp", 40001), ("udp", 40001), ("tcp", 8081))


def doors(*addresses: str) -> list[Door]:
    return [(kind, address, port) for address in addresses for kind, port in MINE]


OUTSIDE = doors(MACHINE_ON_LAN, MACHINE_ON_INTERNET)
HERE = [*OUTSIDE, *doors("127.0.0.1", "127.0.0.2", "10.214.0.1")]


class Publishing:
    """The scene's first tenant has ports; the engine would list what `wanted` holds."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        first, second = scene.networks
        self.first = Publication(first, "10.214.0.2", BINDINGS)
        self.second = Publication(second, "10.214.1.2", (PortBinding(80, 80, 40002, Protocol.TCP),))
        self.wanted = [self.first, self.second]
        self.ports = self.hands()

    def hands(self, machine: str = MACHINE) -> Ports:
        async def look() -> list[Publication]:
            if self.scene.is_silent:
                raise WorkloadError("engine_unavailable", "cannot list containers: the engine does not answer")
            return list(self.wanted)

        return Ports(machine, POOL, look)

    def clients(self) -> list[tuple[int, list[Door]]]:
        return [(self.scene.around.lan, OUTSIDE), (self.scene.around.internet, OUTSIDE), (os.getpid(), HERE)]

    def shut(self) -> list[Door]:
        """Doors that do not answer to those who may come."""
        return [door for pid, all_of in self.clients() for door, opens in knock(pid, all_of).items() if not opens]

    def opened(self) -> list[Door]:
        return [door for pid, all_of in self.clients() for door, opens in knock(pid, all_of).items() if opens]


@pytest.fixture
def publishing(scene: Scene) -> Publishing:
    return Publishing(scene)


def iptables(*words: str) -> None:
    subprocess.run(["iptables", *words], check=True)


async def table(name: str = "nat") -> dict[str, list[str]]:
    return {chain: [one.text for one in found] for chain, found in (await netfilter.saved(Family.IPV4, name)).items()}


async def test_nobody_answers_before(publishing: Publishing) -> None:
    """Or else the other tests would prove nothing."""
    assert publishing.opened() == []


async def test_ports_answer_to_everybody_who_may_come(publishing: Publishing) -> None:
    await publishing.scene.walls().stand(51)

    await publishing.ports.stand(51)

    assert publishing.shut() == []
    assert await publishing.ports.published() == {51: publishing.first.places, 52: publishing.second.places}


@pytest.mark.parametrize("allow", [(), (f"{MACHINE_ON_LAN}/32",)])
async def test_a_neighbour_reaches_no_published_port(publishing: Publishing, allow: tuple[str, ...]) -> None:
    """Not even where the owner opens the services of the machine to tenants."""
    walls = publishing.scene.walls(Reach(allow=allow))
    await walls.stand(51)
    await walls.stand(52)
    await publishing.ports.mend()

    found = knock(publishing.scene.second, [*OUTSIDE, *doors("10.214.0.1", "10.214.1.1"), ("tcp", "10.214.0.2", 80)])

    assert not any(found.values())
    assert knock(publishing.scene.second, [("tcp", MACHINE_ON_LAN, 22)]) == {("tcp", MACHINE_ON_LAN, 22): bool(allow)}


def newer_docker(bridge: str) -> None:
    """What Docker 28 makes of FORWARD: what it did not publish itself is dropped."""
    for words in (
        ["-P", "FORWARD", "DROP"],
        *(["-N", chain] for chain in ("DOCKER-USER", "DOCKER-FORWARD", "DOCKER")),
        ["-A", "DOCKER", "!", "-i", bridge, "-o", bridge, "-j", "DROP"],
        ["-A", "DOCKER-FORWARD", "-o", bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
        ["-A", "DOCKER-FORWARD", "-o", bridge, "-j", "DOCKER"],
        ["-A", "DOCKER-FORWARD", "-i", bridge, "-j", "ACCEPT"],
    ):
        iptables(*words)
    to_front("DOCKER-FORWARD", "DOCKER-USER")


def to_front(*chains: str) -> None:
    """Docker's way: the jump goes away, and comes back as the first one."""
    for chain in chains:
        subprocess.run(["iptables", "-D", "FORWARD", "-j", chain], check=False, stderr=subprocess.DEVNULL)
        iptables("-I", "FORWARD", "-j", chain)


async def test_ports_pass_by_a_docker_that_drops_what_it_did_not_publish(publishing: Publishing) -> None:
    newer_docker("br-first")
    await publishing.ports.stand(51)
    assert publishing.shut() == []

    to_front("DOCKER-FORWARD", "DOCKER-USER")
    assert publishing.shut() != []
    mended = await publishing.ports.mend()

    assert publishing.shut() == []
    assert mended.chains == ()  # Docker does so all the time
    assert (await table("filter"))["FORWARD"][:3] == ["-j DOCKER-USER", f"-j {OWN.through}", "-j DOCKER-FORWARD"]


async def test_a_start_takes_the_place_back_that_docker_took(publishing: Publishing) -> None:
    """Docker does so when it makes the network of the very contract that starts."""
    newer_docker("br-first")
    await publishing.ports.stand(51)
    to_front("DOCKER-FORWARD", "DOCKER-USER")

    await publishing.ports.stand(51)
    await publishing.ports.settle()

    assert publishing.shut() == []
    assert (await table("filter"))["FORWARD"][:3] == ["-j DOCKER-USER", f"-j {OWN.through}", "-j DOCKER-FORWARD"]


async def test_the_owner_says_in_docker_user_who_comes(publishing: Publishing) -> None:
    newer_docker("br-first")
    iptables("-A", "DOCKER-USER", "-s", LAN, "-j", "DROP")
    await publishing.ports.stand(51)

    assert not any(knock(publishing.scene.around.lan, OUTSIDE).values())
    assert all(knock(publishing.scene.around.internet, OUTSIDE).values())


FAULTS = {
    "filter": (["-F"],),
    "nat": (["-t", "nat", "-F"],),
    "both, and chains": (["-F"], ["-X"], ["-t", "nat", "-F"], ["-t", "nat", "-X"]),
    "a jump": (["-t", "nat", "-D", "OUTPUT", "-j", OWN.here],),
    "a rule": (["-t", "nat", "-D", OWN.ports, "3"],),
    "a foreign rule": (["-t", "nat", "-I", OWN.ports, "-j", "RETURN"],),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_change_by_somebody_else_is_repaired_and_told_once(publishing: Publishing, fault: str) -> None:
    iptables("-P", "FORWARD", "DROP")
    await publishing.ports.mend()
    assert publishing.shut() == []
    for words in FAULTS[fault]:
        iptables(*words)
    assert publishing.shut() != []

    first, second = await publishing.ports.mend(), await publishing.ports.mend()

    assert publishing.shut() == []
    assert first.chains != ()
    assert second.chains == ()


async def test_a_start_repairs_too(publishing: Publishing) -> None:
    publishing.wanted = [publishing.first]
    await publishing.ports.stand(51)
    iptables("-t", "nat", "-F")
    iptables("-F")
    publishing.ports.expect(publishing.second)

    await publishing.ports.stand(52)

    assert publishing.shut() == []
    assert all(knock(publishing.scene.around.lan, [("tcp", MACHINE_ON_LAN, 40002)]).values())
    assert OWN.ports in (await publishing.ports.mend()).chains


async def test_without_a_daemon_they_answer_and_the_next_one_takes_them_over(publishing: Publishing) -> None:
    await publishing.ports.mend()
    before = await table()
    publishing.ports = publishing.hands()
    assert publishing.shut() == []

    mended = await publishing.ports.mend()

    assert mended.chains == ()
    assert await table() == before


async def test_a_bridge_that_was_made_anew_takes_clients_at_loopback_again(publishing: Publishing) -> None:
    await publishing.ports.stand(51)
    subprocess.run(["sysctl", "-qw", "net.ipv4.conf.br-first.route_localnet=0"], check=True)
    assert not any(knock(os.getpid(), doors("127.0.0.1")).values())

    await publishing.ports.mend()

    assert publishing.shut() == []


@pytest.mark.parametrize("is_flushed", [False, True])
async def test_a_removed_contract_has_no_rules_and_the_others_keep_theirs(
    publishing: Publishing, *, is_flushed: bool
) -> None:
    await publishing.ports.stand(51)
    if is_flushed:
        iptables("-t", "nat", "-F", OWN.ports)
    publishing.wanted = [publishing.second]

    await publishing.ports.withdraw(51)

    assert await publishing.ports.published() == {52: publishing.second.places}
    assert publishing.opened() == []
    assert all(knock(publishing.scene.around.lan, [("tcp", MACHINE_ON_LAN, 40002)]).values())
    assert (await publishing.ports.mend()).chains == ()


async def test_a_newer_generation_leaves_nothing_of_the_older_one(publishing: Publishing) -> None:
    await publishing.ports.stand(51)
    for bindings in (BINDINGS[1:], ()):
        newer = Publication(publishing.scene.networks[0], "10.214.0.2", bindings)
        publishing.wanted = [newer]
        publishing.ports.expect(newer)
        await publishing.ports.stand(51)
        assert (await publishing.ports.published()).get(51, frozenset()) == newer.places
    publishing.ports.expect(publishing.first)
    await publishing.ports.stand(51)
    publishing.ports.expect(Publication(publishing.scene.networks[0], "10.214.0.2", ()))
    await publishing.ports.withdraw(51)

    assert 51 not in await publishing.ports.published()


async def test_what_a_crash_left_does_not_hide_who_has_the_port_now(publishing: Publishing) -> None:
    """The daemon died between the end of a container and that of its rules."""
    await publishing.ports.stand(51)
    publishing.ports = publishing.hands()
    publishing.wanted = [Publication(publishing.scene.networks[1], "10.214.1.2", BINDINGS)]
    await publishing.ports.withdraw(51)

    await publishing.ports.stand(52)

    inside(publishing.scene.first, "ip", "link", "set", "eth0", "down")
    assert publishing.shut() == []


async def test_a_port_of_another_container_is_not_published_twice(publishing: Publishing) -> None:
    await publishing.ports.stand(51)
    other = Publication(publishing.scene.networks[1], "10.214.1.2", BINDINGS[:1])
    publishing.wanted = [publishing.first, other]
    publishing.ports.expect(other)

    with pytest.raises(WorkloadError, match="40001/tcp for contract 52") as caught:
        await publishing.ports.stand(52)

    assert caught.value.code == "port_taken"
    assert publishing.shut() == []


@pytest.mark.parametrize(("kind", "place"), [(socket.SOCK_STREAM, "40001/tcp"), (socket.SOCK_DGRAM, "40001/udp")])
async def test_a_program_s_port_is_named(publishing: Publishing, kind: socket.SocketKind, place: str) -> None:
    with socket.socket(socket.AF_INET, kind) as program:
        program.bind(("", 40001))
        if kind is socket.SOCK_STREAM:
            program.listen()
        with pytest.raises(WorkloadError, match=place) as caught:
            await publishing.ports.stand(51)

    assert caught.value.code == "port_taken"
    assert OWN.ports not in await table()


async def test_a_container_that_docker_publishes_is_left_alone(publishing: Publishing) -> None:
    publishing.wanted = []

    await publishing.ports.stand(51)
    await publishing.ports.withdraw(51)

    assert OWN.ports not in await table()


def send_loopback_to(pid: int, gateway: str) -> None:
    """A host that sends what is for 127.0.0.0/8 to the machine, as no honest one does."""
    inside(pid, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    inside(pid, "ip", "route", "delete", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
    inside(pid, "ip", "route", "delete", "local", "127.0.0.1", "dev", "lo", "table", "local")
    inside(pid, "ip", "route", "add", "127.0.0.0/8", "via", gateway)


async def test_loopback_of_the_machine_stays_its_own(publishing: Publishing) -> None:
    """Neither the LAN nor a tenant gets to 127.0.0.1, though tenants' bridges route it."""
    await publishing.scene.walls().stand(51)
    await publishing.ports.stand(51)
    seen: Sequence[str] = ("-t", "raw", "-A", "PREROUTING", "-d", "127.0.0.0/8", "!", "-i", "lo")
    iptables(*seen)
    tries: list[Door] = [("tcp", "127.0.0.1", 22), *doors("127.0.0.1")]

    for pid, gateway in ((publishing.scene.around.lan, MACHINE_ON_LAN), (publishing.scene.first, "10.214.0.1")):
        send_loopback_to(pid, gateway)
        assert not any(knock(pid, tries).values())
        (counted,) = (await netfilter.saved(Family.IPV4, "raw", with_counters=True))["PREROUTING"]
        assert counted.packets > 0  # they did arrive
        iptables("-t", "raw", "-Z")


async def test_foreign_rules_and_those_of_another_machine_stay(publishing: Publishing) -> None:
    iptables("-t", "nat", "-A", "PREROUTING", "-p", "udp", "--dport", "9", "-j", "RETURN")
    await publishing.hands("8@0123456789abcdef").stand(51)
    before = await table()

    await publishing.ports.stand(51)
    await publishing.ports.withdraw(51)
    await publishing.ports.mend()

    after = await table()
    theirs = rules.names("8@0123456789abcdef")
    for chain in (theirs.ports, theirs.here, theirs.sources):
        assert after[chain] == before[chain]
    assert [one for one in after["PREROUTING"] if OWN.mark not in one] == before["PREROUTING"]


async def test_a_silent_engine_leaves_what_is_known(publishing: Publishing) -> None:
    await publishing.ports.mend()
    publishing.scene.is_silent = True
    iptables("-t", "nat", "-F")

    await publishing.ports.mend()

    assert publishing.shut() == []


async def test_without_a_firewall_nothing_starts(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with monkeypatch.context() as context:
        context.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
        with pytest.raises(WorkloadError) as caught:
            await publishing.ports.stand(51)
        with pytest.raises(HostError):
            await publishing.ports.mend()

    assert caught.value.code == "ports_failed"
    assert "install iptables" in caught.value.problem.remedy
