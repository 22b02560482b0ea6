"""Who is reached by a relay, by which ports, and which relays are refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts import relay as rules
from kaalia.errors import ContractError
from kaalia.model.machine import Network, PortRange, ProvenPorts
from kaalia.model.relay import RelayForward, RelayLink
from kaalia.model.workload import LaunchMode
from tests.support.clock import START

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC3KY6HelXbbMBdC04ir3Yq+k3kHGGdbr6jTnsIn9RKo"
LINK = RelayLink("west", "relay.example", 2222, "nobody", KEY, 20000, 20015, (RelayForward(7, 22, 20001),))
BLOCK = PortRange(20000, 20015)
NETWORK = Network("203.0.113.7", (), PortRange(40000, 40099))


@pytest.mark.parametrize(
    ("mode", "runtype", "has_direct", "ports"),
    [
        (LaunchMode.SSH, "ssh_proxy", True, (22,)),
        (LaunchMode.SSH, "ssh_direc ssh_proxy", True, (22,)),
        (LaunchMode.SSH, "ssh", True, ()),
        (LaunchMode.SSH, "ssh", False, (22,)),
        (LaunchMode.SSH, "ssh_direct", False, (22,)),
        (LaunchMode.JUPYTER, "jupyter_proxy ssh_proxy", True, (8080, 22)),
        (LaunchMode.JUPYTER, "jupyter_direc ssh_direc ssh_proxy", False, (8080, 22)),
        (LaunchMode.JUPYTER, "jupyter", True, ()),
        (LaunchMode.ARGS, "args", False, ()),
    ],
)
def test_what_is_reached_by_a_relay(mode: LaunchMode, runtype: str, has_direct: bool, ports: tuple[int, ...]) -> None:
    assert rules.served(mode, runtype, has_direct) == ports


def test_a_machine_has_direct_ports_until_the_contrary_is_proven() -> None:
    none, some = (ProvenPorts("203.0.113.7", count, 0, START) for count in (0, 3))

    assert rules.has_direct_ports(NETWORK)
    assert rules.has_direct_ports(replace(NETWORK, proven=some))
    assert not rules.has_direct_ports(replace(NETWORK, proven=none))
    assert not rules.has_direct_ports(replace(NETWORK, public_ip=None))


@pytest.mark.parametrize(
    ("runtype", "has_direct", "is_direct"),
    [
        ("ssh_proxy", True, False),
        ("jupyter_proxy ssh_proxy", True, False),
        ("ssh_direc ssh_proxy", True, True),
        ("ssh_direc ssh_proxy", False, False),
        ("ssh", True, True),
    ],
)
def test_when_the_own_address_is_told(runtype: str, has_direct: bool, is_direct: bool) -> None:
    assert rules.is_direct(runtype, has_direct) is is_direct


@given(st.sets(st.integers(20000, 20015)), st.integers(1, 10**9), st.sampled_from([(22,), (8080, 22)]))
def test_ports_are_neighbours_of_the_block_and_free(taken: set[int], contract_id: int, inner: tuple[int, ...]) -> None:
    forwards = rules.choose(BLOCK, taken, contract_id, inner)

    ports = [forward.relay_port for forward in forwards]
    if forwards:
        assert [forward.container_port for forward in forwards] == list(inner)
        assert ports == list(range(ports[0], ports[0] + len(inner)))
        assert all(port in BLOCK and port not in taken for port in ports)
    else:
        free = sorted(set(range(20000, 20016)) - taken)
        assert not free if len(inner) == 1 else not any(port + 1 in free for port in free)


def test_blocks_fill_the_range_without_touching() -> None:
    blocks = list(rules.blocks(PortRange(20000, 20050)))

    assert [(block.first, block.last) for block in blocks] == [(20000, 20015), (20016, 20031), (20032, 20047)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "FIRST-LAST"),
        ("20000", "FIRST-LAST"),
        ("20000-", "FIRST-LAST"),
        ("-5-20000", "FIRST-LAST"),
        ("30000-20000", "above"),
        ("80-20000", "1024"),
        ("20000-70000", "65535"),
        ("20000-20014", "fewer"),
        ("٢٠٠٠٠-30000", "FIRST-LAST"),
    ],
)
def test_ports_that_cannot_be_meant(text: str, word: str) -> None:
    with pytest.raises(ContractError) as caught:
        rules.parse_ports(text)

    assert caught.value.code == "relay_ports_invalid"
    assert word in caught.value.problem.message + caught.value.problem.remedy


def test_the_port_of_the_relay_itself_is_not_given_away() -> None:
    assert rules.parse_ports(" 20000-20015 ") == BLOCK
    rules.check_apart(2222, BLOCK)
    with pytest.raises(ContractError, match="itself listens on 20003"):
        rules.check_apart(20003, BLOCK)


@pytest.mark.parametrize(
    "change",
    [
        {"relay": "We/st"},
        {"relay": "west-"},
        {"host": "-oProxyCommand=x"},
        {"host": "a b"},
        {"user": "-x"},
        {"host_key": "ssh-rsa AAAA"},
        {"host_key": KEY + "\nother " + KEY},
        {"port": 0},
        {"port": 70000},
        {"first_port": 22},
        {"forwards": (RelayForward(7, 22, 20016),)},
        {"forwards": (RelayForward(7, 22, 20001), RelayForward(8, 22, 20001))},
    ],
)
def test_a_link_that_could_become_another_command_is_refused(change: dict[str, object]) -> None:
    rules.check_link(LINK)
    with pytest.raises(ContractError) as caught:
        rules.check_link(replace(LINK, **change))  # type: ignore[arg-type]

    assert caught.value.code == "relay_invalid"


def test_a_contract_that_is_not_mentioned_stays_reached() -> None:
    """A marketplace that forgot it takes no renter's way in; one that says otherwise does."""
    forgotten, other = RelayForward(7, 22, 20001), RelayForward(8, 22, 20002)
    now = replace(LINK, forwards=(other,))

    assert rules.kept([LINK], [now], {7}) == (replace(LINK, forwards=(other, forgotten)),)
    assert rules.kept([LINK], [], {7}) == (LINK,)
    assert rules.kept([LINK], [now], set()) == (now,)
    taken = replace(LINK, forwards=(RelayForward(9, 22, 20001),))
    assert rules.kept([LINK], [taken], {7}) == (taken,)
