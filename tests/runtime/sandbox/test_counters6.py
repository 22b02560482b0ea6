"""Traffic by IPv6 counts like that by IPv4, as one sum; in the kernel of a network namespace of our own."""

import socket
from dataclasses import dataclass

import pytest

from kaalia.contracts.ports import ipv6_address_in, ipv6_subnet
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.model.traffic import Bytes, Counter
from kaalia.runtime.sandbox.counters import PacketCounters
from tests.runtime.sandbox.test_counters import FIRST, PACKET, PAYLOAD, SECOND, TENANT, counters, raws, run, send
from tests.support.neighbourhood6 import settle

assert counters  # the fixture
PACKET6 = PACKET + 20
"""The header of IPv6 is 20 bytes longer."""
IPV6_TRANSPARENT = 75
INTERNET = "2600:198::7"


@dataclass
class Switch:
    """Whether new contracts have IPv6."""

    is_on: bool = True

    async def has_ipv6(self) -> bool:
        return self.is_on


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def both(counters: PacketCounters, switch: Switch) -> PacketCounters:
    run("ip", "-6", "address", "add", "2600:203::1/64", "dev", "wan0", "nodad")
    run("ip", "-6", "route", "add", "default", "dev", "wan0")
    settle()
    return PacketCounters("7-abcd", switch.has_ipv6)


def six(counter: Counter) -> str:
    return ipv6_address_in(ipv6_subnet("7-abcd", counter.subnet))


def send6(source: str, destination: str, times: int = 1) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.bind((source, 0))
        for _ in range(times):
            sock.sendto(bytes(PAYLOAD), (destination, 9))


async def test_the_internet_is_counted_by_both_families_as_one(both: PacketCounters) -> None:
    assert not (await both.read()).is_whole
    await both.build([FIRST, SECOND])
    send(TENANT, "198.51.100.7")
    send6(six(FIRST), INTERNET, times=3)
    send6(INTERNET, six(FIRST), times=2)
    send6(six(SECOND), INTERNET)

    assert await raws(both) == {51: Bytes(PACKET + 3 * PACKET6, 2 * PACKET6), 52: Bytes(PACKET6, 0)}
    await both.change([], [FIRST])
    assert await raws(both) == {52: Bytes(PACKET6, 0)}


@pytest.mark.parametrize("other", ["fd77::9", "64:ff9b::7", "fec0::9", "2600:203::1", six(SECOND)])
async def test_what_is_no_internet_is_not_counted(both: PacketCounters, other: str) -> None:
    await both.read()
    await both.build([FIRST, SECOND])
    send6(other, six(FIRST))
    send6(six(FIRST), other)

    assert await raws(both) == {51: Bytes(), 52: Bytes()}


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
async def test_half_of_a_sum_is_never_told(both: PacketCounters, program: str) -> None:
    """It would look like a counter that began anew, and be charged again."""
    await both.read()
    await both.build([FIRST])
    send(TENANT, "198.51.100.7")
    send6(six(FIRST), INTERNET)
    run(program, "-t", "mangle", "-F")

    found = await both.read()

    assert (found.readings, found.is_whole) == ((), False)
    await both.build([SECOND])
    send6(six(SECOND), INTERNET)
    assert await raws(both) == {52: Bytes(PACKET6)}


async def test_a_machine_without_ipv6_is_counted_as_ever(both: PacketCounters, switch: Switch) -> None:
    switch.is_on = False
    await both.read()
    await both.build([FIRST])
    send(TENANT, "198.51.100.7")

    assert await raws(both) == {51: Bytes(PACKET)}
    assert "KAALIA" not in str((await netfilter.saved(Family.IPV6, "mangle")).keys())


async def test_counting_goes_on_when_the_machine_loses_ipv6_and_over_a_restart(
    both: PacketCounters, switch: Switch
) -> None:
    await both.read()
    await both.build([FIRST])
    send6(six(FIRST), INTERNET)
    switch.is_on = False

    assert await raws(both) == {51: Bytes(PACKET6)}
    assert await raws(PacketCounters("7-abcd", switch.has_ipv6)) == {51: Bytes(PACKET6)}
