"""Host ports and subnets: random, free, and enough."""

from ipaddress import IPv4Network, IPv6Network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.ports import allocate, ipv4_subnet, ipv6_address_in, ipv6_pool, ipv6_subnet, next_subnet, wanted
from kaalia.errors import ContractError
from kaalia.model.machine import PortRange
from kaalia.model.workload import PortBinding, PortRequest, Protocol

TCP, UDP = Protocol.TCP, Protocol.UDP
RANGE = PortRange(40000, 40099)


def test_ports_come_from_the_range_and_differ_between_draws() -> None:
    requests = [PortRequest(22), PortRequest(8080)]

    draws = {allocate(requests, RANGE, set(), Random(seed).randrange) for seed in range(20)}

    assert len(draws) > 10
    assert all(binding.host_port in RANGE for draw in draws for binding in draw)
    assert all([binding.container_port for binding in draw] == [22, 8080] for draw in draws)


@given(
    st.sets(st.tuples(st.integers(1, 65535), st.sampled_from(Protocol)), min_size=1, max_size=40),
    st.integers(0, 20),
    st.sets(st.tuples(st.integers(40000, 40099), st.sampled_from(Protocol)), max_size=20),
    st.integers(0, 2**32),
)
def test_no_port_is_given_twice_nor_taken(
    ports: set[tuple[int, Protocol]], identities: int, taken: set[tuple[int, Protocol]], seed: int
) -> None:
    requests = [PortRequest(*port) for port in sorted(ports)] + [PortRequest(70000 + n) for n in range(identities)]

    bindings = allocate(requests, RANGE, taken, Random(seed).randrange)

    outside = [(binding.host_port, binding.protocol) for binding in bindings]
    inside = [(binding.container_port, binding.protocol) for binding in bindings]
    assert len(set(outside)) == len(set(inside)) == len(requests)
    assert not set(outside) & taken
    assert all(b.container_port == b.host_port for b in bindings if b.requested >= 70000)
    assert all(b.container_port == b.requested for b in bindings if b.requested < 70000)


def test_an_identity_port_avoids_numbers_that_the_container_uses() -> None:
    small = PortRange(40000, 40001)

    (plain, identity) = allocate([PortRequest(40001), PortRequest(70000)], small, set(), lambda count: count - 1)

    assert identity.host_port == 40000
    assert plain.host_port == 40001


def test_ports_of_a_contract_are_kept_where_they_still_fit() -> None:
    kept = (PortBinding(22, 22, 40007, TCP), PortBinding(80, 80, 40008, TCP), PortBinding(90, 90, 50000, TCP))
    requests = [PortRequest(22), PortRequest(80), PortRequest(90), PortRequest(22, UDP)]

    bindings = allocate(requests, RANGE, {(40008, TCP)}, Random(1).randrange, kept)

    assert bindings[0] == kept[0]
    assert bindings[1].host_port not in (40007, 40008)
    assert bindings[2].host_port in RANGE
    assert bindings[3].protocol is UDP


def test_a_range_that_is_used_up_is_named_with_the_need() -> None:
    taken = {(port, TCP) for port in range(40000, 40099)}

    with pytest.raises(ContractError, match=r"2 ports: the range 40000-40099") as caught:
        allocate([PortRequest(22), PortRequest(23)], RANGE, taken, Random(1).randrange)

    assert caught.value.code == "ports_exhausted"


def test_more_than_64_requests_are_refused_and_more_exposed_ports_left_out() -> None:
    requests = [PortRequest(number) for number in range(1, 66)]
    with pytest.raises(ContractError) as caught:
        allocate(requests, RANGE, set(), Random(1).randrange)
    assert caught.value.code == "too_many_ports"

    asked = requests[:60]
    all_wanted = wanted(asked, [PortRequest(3), *(PortRequest(number) for number in range(100, 200))])

    assert len(all_wanted) == 64
    assert all_wanted[:60] == tuple(asked)
    assert all_wanted[60] == PortRequest(100)


@pytest.mark.parametrize(
    ("taken", "subnet"),
    [
        ([], "10.214.0.0/28"),
        (["10.214.0.0/28"], "10.214.0.16/28"),
        (["10.214.0.0/24"], "10.214.1.0/28"),
        (["10.214.0.5/32", "172.17.0.0/16", "0.0.0.0/0"], "10.214.0.16/28"),
        (["10.214.0.16/28"], "10.214.0.0/28"),
        (["10.214.0.1/28"], "10.214.0.16/28"),
    ],
)
def test_the_first_free_subnet_is_given(taken: list[str], subnet: str) -> None:
    assert next_subnet("10.214.0.0/16", taken) == subnet


def test_a_pool_that_is_routed_elsewhere_is_exhausted() -> None:
    with pytest.raises(ContractError, match=r"10\.214\.0\.0/24") as caught:
        next_subnet("10.214.0.0/24", ["10.0.0.0/8"])

    assert caught.value.code == "subnets_exhausted"


@given(st.integers(0, 16))
def test_subnets_in_turn_never_overlap(count: int) -> None:
    given_out: list[str] = []
    for _ in range(count):
        given_out.append(next_subnet("10.214.0.0/24", given_out))

    assert len(set(given_out)) == count


@given(st.sets(st.integers(0, 2**28 - 1), min_size=2, max_size=20))
def test_every_network_has_an_ipv6_one_of_its_own_in_the_machine_s_pool(numbers: set[int]) -> None:
    subnets = [str(IPv4Network((number << 4, 28))) for number in numbers]

    found = [IPv6Network(ipv6_subnet("7@0123456789abcdef", one)) for one in subnets]

    assert len(set(found)) == len(subnets)
    assert all(one.prefixlen == 64 and one.is_private for one in found)
    assert all(one.subnet_of(IPv6Network(ipv6_pool("7@0123456789abcdef"))) for one in found)
    assert [ipv4_subnet(str(one)) for one in found] == subnets


def test_two_machines_have_other_pools() -> None:
    assert ipv6_pool("7@0123456789abcdef") == "fd3a:73ef:6000::/36"
    assert ipv6_subnet("7@0123456789abcdef", "10.214.0.16/28") == "fd3a:73ef:60ad:6001::/64"
    assert ipv6_address_in("fd3a:73ef:60ad:6001::/64") == "fd3a:73ef:60ad:6001::2"
    assert ipv6_pool("8@0123456789abcdef") != ipv6_pool("7@0123456789abcdef")
