"""Where a cloud may be: the table of docs/networking.md, line by line, and its order where lines overlap."""

import ipaddress

import pytest

from kaalia.contracts import networks
from kaalia.contracts.networks import Surroundings

AROUND = Surroundings.of(
    ("192.168.5.0/24", "10.0.0.0/8", "192.0.2.0/24", "203.0.113.9/32", "224.0.0.251/32", "fd77::/16", "fd99::9/128"),
    ("10.214.0.0/16", "fd77:1234:5000::/36"),
    ("2a00:1:2:3::/64",),
)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        # other tenants, and what no allow-list opens
        ("10.214.3.2", False),
        ("::ffff:10.214.3.2", False),
        ("fd77:1234:5000:7::2", False),
        ("224.0.0.251", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("ff02::1", False),
        ("0.0.0.0", False),
        ("::", False),
        # networks that the owner opened
        ("192.168.5.5", True),
        ("::ffff:192.168.5.5", True),
        ("10.1.2.3", True),
        ("fd77::5", True),
        ("fd99::9", True),
        ("fd99::8", False),
        # not the internet
        ("192.168.6.5", False),
        ("127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("100.64.0.1", False),
        ("172.16.0.1", False),
        ("192.0.0.9", False),
        ("198.18.0.1", False),
        ("::1", False),
        ("::10.0.0.1", False),
        ("::8.8.8.8", False),
        ("::ffff:0:a00:1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", False),
        ("64:ff9b:1::a00:1", False),
        ("2001:0:1::1", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::", False),
        ("3fff::1", False),
        ("4000::1", False),
        ("8000::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fec0::1", False),
        # the LAN, by addresses of the internet
        ("2a00:1:2:3::7", False),
        ("2a00:1:2:4::7", True),
    ],
)
def test_where_a_cloud_may_be(address: str, expected: bool) -> None:
    assert networks.is_reachable(ipaddress.ip_address(address), 443, AROUND, is_own=False) is expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", False),
        ("192.0.2.2", False),  # the network that holds it is allowed, which does not mean its services
        ("::ffff:192.0.2.2", False),
        ("fd77::5", False),
        ("203.0.113.9", True),  # by name
        ("fd99::9", True),
        ("224.0.0.251", False),
        ("10.214.0.1", False),
    ],
)
def test_the_machine_itself_is_reached_by_single_addresses_alone(address: str, expected: bool) -> None:
    assert networks.is_reachable(ipaddress.ip_address(address), 443, AROUND, is_own=True) is expected


@pytest.mark.parametrize(("port", "expected"), [(80, True), (443, True), (9000, True), (22, False), (25, False)])
@pytest.mark.parametrize("address", ["8.8.8.8", "192.168.5.5", "203.0.113.9"])
def test_by_which_ports(address: str, port: int, expected: bool) -> None:
    assert networks.is_reachable(ipaddress.ip_address(address), port, AROUND, is_own=False) is expected
