"""The counters of traffic, in the kernel of a network namespace of our own, with packets that pass them."""

import socket
import subprocess
from collections.abc import Iterator

import pytest

from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.model.traffic import Bytes, Counter, Reading
from kaalia.runtime.sandbox.counters import SHARED, Names, PacketCounters
from tests.support.own_network import is_possible, own_network

FIRST, SECOND = Counter(51, "10.214.0.0/28", "000a"), Counter(52, "10.214.0.16/28", "000b")
TENANT, NEIGHBOUR = "10.214.0.2", "10.214.0.18"
END = PacketCounters("7-abcd").names.end
PAYLOAD, PACKET = 1000, 1028
RENTERS = ("-m", "conntrack", "--ctorigdst", "127.107.97.1")
IP_TRANSPARENT = 19


@pytest.fixture
def counters() -> Iterator[PacketCounters]:
    """The machine is 203.0.113.1; every packet leaves by a link that swallows it."""
    if not is_possible():
        pytest.skip("needs a network namespace: run scripts/test as root")
    with own_network():
        run("ip", "link", "add", "wan0", "arp", "off", "type", "veth", "peer", "name", "far0")
        run("ip", "link", "set", "far0", "arp", "off", "up")
        run("ip", "address", "add", "203.0.113.1/24", "dev", "wan0")
        run("ip", "link", "set", "wan0", "up")
        run("ip", "route", "add", "default", "dev", "wan0")
        yield PacketCounters("7-abcd")


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def send(source: str, destination: str, times: int = 1) -> None:
    """Packets with any source address, as if they were forwarded."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind((source, 0))
        for _ in range(times):
            sock.sendto(bytes(PAYLOAD), (destination, 9))


async def raws(counters: PacketCounters) -> dict[int, Bytes]:
    found = await counters.read()
    assert found.is_whole
    return {one.counter.contract_id: one.raw for one in found.readings}


async def test_the_internet_is_counted_for_each_contract_up_and_down(counters: PacketCounters) -> None:
    await counters.build([FIRST, SECOND])
    send(TENANT, "198.51.100.7", times=3)
    send("198.51.100.7", TENANT, times=2)
    send(NEIGHBOUR, "8.8.8.8")

    assert await raws(counters) == {51: Bytes(3 * PACKET, 2 * PACKET), 52: Bytes(PACKET, 0)}


@pytest.mark.parametrize(
    "other",
    [
        "10.0.0.1",
        NEIGHBOUR,
        "100.64.0.9",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.1",
        "192.168.1.20",
        "224.0.0.251",
        "255.255.255.255",
        "203.0.113.1",
    ],
)
async def test_what_is_no_internet_is_not_counted(counters: PacketCounters, other: str) -> None:
    """Neighbours of the LAN, other tenants, groups, and the machine itself."""
    await counters.build([FIRST, SECOND])
    if other.startswith(("224.", "255.")):
        # To many at once the kernel lets only an address of its own send.
        run("ip", "address", "add", f"{TENANT}/32", "dev", "wan0")
    else:
        send(other, TENANT)
    send(TENANT, other)

    assert await raws(counters) == {51: Bytes(), 52: Bytes()}


async def test_counters_come_and_go_while_the_others_count_on(counters: PacketCounters) -> None:
    await counters.build([FIRST])
    send(TENANT, "198.51.100.7")
    await counters.change([SECOND], [])
    send(TENANT, "198.51.100.7")
    send(NEIGHBOUR, "198.51.100.7")
    assert await raws(counters) == {51: Bytes(2 * PACKET), 52: Bytes(PACKET)}

    await counters.change([], [FIRST])
    assert await raws(counters) == {52: Bytes(PACKET)}


@pytest.mark.parametrize(
    "damage",
    [
        ("-F",),
        ("-F", "POSTROUTING"),
        ("-F", "KAALIA-COUNT-DOWN-x"),
        ("-D", "KAALIA-COUNT-UP-x", "1"),
        ("-D", "KAALIA-COUNT-x", "1"),
        ("-A", "POSTROUTING", "-j", "KAALIA-COUNT-x"),
        ("-F", "INPUT"),
        ("-F", "KAALIA-RELAY-UP-x"),
        ("-D", "KAALIA-COUNT-x", "3"),
        ("-A", "INPUT", "-j", "KAALIA-RELAY-UP-x", *RENTERS),
    ],
)
async def test_what_somebody_spoilt_is_seen_and_built_anew(counters: PacketCounters, damage: tuple[str, ...]) -> None:
    await counters.build([FIRST])
    run("iptables", "-t", "mangle", *(word.replace("-x", END) for word in damage))

    assert not (await counters.read()).is_whole
    await counters.build([SECOND])
    send(NEIGHBOUR, "198.51.100.7")
    assert await raws(counters) == {52: Bytes(PACKET)}


async def test_what_was_counted_before_the_hook_was_flushed_is_still_read(counters: PacketCounters) -> None:
    """The counters that a flush of the hook left are still there to be read."""
    await counters.build([FIRST])
    send(TENANT, "198.51.100.7")
    run("iptables", "-t", "mangle", "-F", "POSTROUTING")

    [reading] = (await counters.read()).readings
    assert (reading.counter, reading.raw) == (FIRST, Bytes(PACKET))


@pytest.mark.parametrize(
    "damage",
    [("-A", "POSTROUTING", "-j", "KAALIA-COUNT-x"), ("-D", "KAALIA-COUNT-UP-x", "-d", "10.0.0.0/8", "-j", "RETURN")],
)
async def test_what_was_counted_wrongly_is_not_read(counters: PacketCounters, damage: tuple[str, ...]) -> None:
    await counters.build([FIRST])
    run("iptables", "-t", "mangle", *(word.replace("-x", END) for word in damage))
    send(TENANT, "10.0.0.1")

    assert (await counters.read()).readings == ()


async def test_another_machine_that_builds_its_own_takes_nothing_away(counters: PacketCounters) -> None:
    other = PacketCounters("9-beef")
    await counters.build([FIRST])
    send(TENANT, "198.51.100.7")
    await other.build([SECOND])
    send(NEIGHBOUR, "198.51.100.7")

    assert await raws(counters) == {51: Bytes(PACKET)}
    assert await raws(other) == {52: Bytes(PACKET)}


def build_as_before(names: Names) -> None:
    """As versions did that knew nothing of relays."""
    heads = {chain: names.heads[chain] for chain in (names.count, names.up, names.down)}
    for chain in heads:
        run("iptables", "-t", "mangle", "-N", chain)
    for chain, head in heads.items():
        for rule in head[:2] if chain == names.count else head:
            run("iptables", "-t", "mangle", "-A", chain, *rule)
    run("iptables", "-t", "mangle", "-I", "POSTROUTING", "-j", names.count)


def count_as_before(machine: str, counter: Counter, names: Names = SHARED) -> None:
    """Rules of the chains of an earlier version."""
    for chain, side in ((names.up, "-s"), (names.down, "-d")):
        name = f"kaalia/{machine}/{counter.contract_id}/{counter.epoch}"
        run("iptables", "-t", "mangle", "-A", chain, side, counter.subnet, "-m", "comment", "--comment", name)


@pytest.fixture
def shared(counters: PacketCounters) -> PacketCounters:
    build_as_before(SHARED)
    count_as_before("7-abcd", FIRST)
    return counters


async def test_chains_of_an_earlier_version_are_read_once_more_and_go(shared: PacketCounters) -> None:
    send(TENANT, "198.51.100.7")

    found = await shared.read()
    await shared.build([SECOND])

    assert [(one.counter, one.raw) for one in found.readings] == [(FIRST, Bytes(PACKET))]
    assert not found.is_whole
    send(NEIGHBOUR, "198.51.100.7")
    assert await raws(shared) == {52: Bytes(PACKET)}
    assert not SHARED.heads.keys() & (await netfilter.saved(Family.IPV4, "mangle")).keys()


async def test_chains_of_an_earlier_version_go_when_nothing_is_left_to_count(shared: PacketCounters) -> None:
    (reading,) = (await shared.read()).readings

    await shared.change([], [reading.counter])

    assert await raws(shared) == {}
    assert not SHARED.heads.keys() & (await netfilter.saved(Family.IPV4, "mangle")).keys()


async def test_chains_of_an_earlier_version_stay_for_another_machine(shared: PacketCounters) -> None:
    count_as_before("9-beef", SECOND)

    await shared.build([FIRST])

    texts = [rule.text for rule in (await netfilter.saved(Family.IPV4, "mangle"))[SHARED.up]]
    assert not any("7-abcd" in text for text in texts)
    assert any("9-beef" in text for text in texts)


@pytest.mark.parametrize("is_served", [True, False])
async def test_chains_that_know_no_relays_are_read_once_more_and_built_anew(
    counters: PacketCounters, is_served: bool
) -> None:
    build_as_before(counters.names)
    count_as_before("7-abcd", FIRST, counters.names)
    send(TENANT, "198.51.100.7")

    found = await counters.read()
    await counters.change([SECOND] if is_served else [], [FIRST])

    assert (found.readings, found.is_whole) == ((Reading(FIRST, Bytes(PACKET)),), False)
    assert await raws(counters) == ({52: Bytes()} if is_served else {})


async def test_what_a_filter_drops_is_not_counted(counters: PacketCounters) -> None:
    await counters.build([FIRST])
    run("iptables", "-A", "OUTPUT", "-d", "198.51.100.7", "-j", "DROP")
    with pytest.raises(PermissionError):
        send(TENANT, "198.51.100.7")

    assert await raws(counters) == {51: Bytes()}
