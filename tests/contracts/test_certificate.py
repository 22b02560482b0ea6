from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts.certificate import LOCAL_NAMES, is_due, is_proven, is_wanted, names, renewal_at
from kaalia.contracts.contract import Desired
from kaalia.contracts.local import LOCAL_FIRST
from kaalia.model.certificate import Certificate
from kaalia.model.workload import LaunchMode
from tests.support.builders import build_contract
from tests.support.clock import START
from tests.support.placements import build_spec

NAMES = names("203.0.113.7", None)
KNOWN = Certificate(51, "PEM", NAMES, START, START + timedelta(days=90))


@pytest.mark.parametrize(
    ("public_ip", "relay", "found"),
    [
        ("203.0.113.7", None, ("203.0.113.7",)),
        ("203.0.113.7", "Relay.Example", ("203.0.113.7", "relay.example")),
        ("2001:DB8:0:0::7", "203.0.113.1", ("2001:db8::7", "203.0.113.1")),
        (None, "relay.example", ("relay.example",)),
        ("203.0.113.1", "203.0.113.1", ("203.0.113.1",)),
        (None, None, ()),
    ],
)
def test_names_are_where_renters_come_in(public_ip: str | None, relay: str | None, found: tuple[str, ...]) -> None:
    assert names(public_ip, relay) == (*found, *LOCAL_NAMES)


@pytest.mark.parametrize("told", ["bank.example", "203.0.113.7, bank.example", "*", ""])
def test_a_machine_is_certified_for_addresses_only(told: str) -> None:
    assert names(told, None) == LOCAL_NAMES


@pytest.mark.parametrize(
    ("public_ip", "seen", "is_direct", "is_own"),
    [
        ("8.8.8.8", "8.8.8.8", False, True),
        ("2001:4860:0::8888", "2001:4860::8888", False, True),
        ("1.1.1.1", "8.8.8.8", True, False),
        ("192.168.1.1", "8.8.8.8", True, False),
        ("192.168.1.1", "192.168.1.1", True, True),
        ("192.168.1.1", "192.168.1.1", False, False),  # a proxy's word may be of any network
        ("127.0.0.2", "127.0.0.1", True, True),
        ("127.0.0.1", "127.0.0.1", False, False),
        ("127.0.0.1", "192.168.1.1", True, False),
        ("169.254.1.1", "169.254.1.1", True, False),
        ("0.0.0.0", "0.0.0.0", True, False),
        ("8.8.8.8", None, False, False),
        (None, "8.8.8.8", True, False),
        ("bank.example", "bank.example", True, False),
    ],
)
def test_an_address_is_a_machines_own_when_it_asks_from_there(
    public_ip: str | None, seen: str | None, is_direct: bool, is_own: bool
) -> None:
    assert is_proven(public_ip, seen, is_direct=is_direct) is is_own


def test_only_living_contracts_with_jupyter_want_one() -> None:
    contract = build_contract(51, spec=build_spec(launch_mode=LaunchMode.JUPYTER))

    assert is_wanted(contract)
    assert is_wanted(replace(contract, desired=Desired.STOPPED))
    assert not is_wanted(replace(contract, desired=Desired.ENDED))
    assert not is_wanted(build_contract(51, spec=build_spec(launch_mode=LaunchMode.SSH)))
    assert not is_wanted(replace(contract, contract_id=LOCAL_FIRST)), "no marketplace hears of the machine's own"


def test_one_is_due_for_other_names_and_in_its_last_third() -> None:
    assert renewal_at(KNOWN) == START + timedelta(days=60)
    assert is_due(None, NAMES, START)
    assert is_due(KNOWN, names("203.0.113.8", None), START)
    assert not is_due(KNOWN, NAMES, START + timedelta(days=59))
    assert is_due(KNOWN, NAMES, START + timedelta(days=60))
