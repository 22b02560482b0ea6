"""Addresses and ports: real sockets of this machine, routes and bridges from real files."""

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaalia.errors import HostError
from kaalia.host import net
from kaalia.model.workload import Protocol
from tests.support.sysfs import write_files

KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"


@pytest.fixture(params=[(protocol, family) for protocol in Protocol for family in ("0.0.0.0", "127.0.0.1", "::")])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[Protocol, int]]:
    """A port that something listens on, on all addresses, one address, or IPv6."""
    protocol, address = request.param
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.socket(family, KINDS[protocol])
        listener.bind((address, 0))
    except OSError:
        pytest.skip(f"no {address} on this machine")
    with listener:
        if protocol is Protocol.TCP:
            listener.listen()
        yield protocol, listener.getsockname()[1]


def test_a_taken_port_is_not_free(taken: tuple[Protocol, int]) -> None:
    protocol, port = taken

    assert not net.is_port_free(port, protocol)


@pytest.mark.parametrize("protocol", Protocol)
def test_a_port_is_free_again_after_its_owner_left(protocol: Protocol) -> None:
    with socket.socket(socket.AF_INET, KINDS[protocol]) as owner:
        owner.bind(("0.0.0.0", 0))
        port = owner.getsockname()[1]
        assert not net.is_port_free(port, protocol)

    assert net.is_port_free(port, protocol)
    assert net.is_port_free(port, protocol)


def test_a_lingering_connection_does_not_take_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the server's side closes first: its port stays in TIME_WAIT
            assert client.recv(1) == b""

    assert net.is_port_free(port, Protocol.TCP)


def test_tcp_and_udp_are_counted_apart() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]

        assert not net.is_port_free(port, Protocol.TCP)
        assert net.is_port_free(port, Protocol.UDP)


def test_the_default_route_with_the_lowest_metric_counts(tmp_path: Path) -> None:
    routes = [
        "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0",
        "eth1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0",
        "eth2\t00000000\t0101A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0",  # not up
        "eth3\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",  # not the default
        "tun0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000080\t0\t0\t0",  # half the internet only
    ]
    write_files(tmp_path, {"proc/net/route": "\n".join([HEAD, *routes])})

    assert net.default_interface(tmp_path) == "eth1"


def test_no_default_route_is_said(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/net/route": HEAD})

    with pytest.raises(HostError, match="has none"):
        net.default_address(tmp_path)


def test_a_default_route_without_address_names_its_interface(tmp_path: Path) -> None:
    route = "nosuch0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"
    write_files(tmp_path, {"proc/net/route": f"{HEAD}\n{route}"})

    with pytest.raises(HostError, match="nosuch0"):
        net.default_address(tmp_path)


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True),
        ("192.168.1.5", False),
        ("10.0.0.1", False),
        ("172.31.0.1", False),
        ("100.64.3.4", False),  # carrier-grade NAT: RFC 6598
        ("169.254.169.254", False),
        ("127.0.0.1", False),
    ],
)
def test_tells_public_addresses_from_private_ones(address: str, is_public: bool) -> None:
    assert net.is_public(address) is is_public


@pytest.mark.parametrize(
    ("files", "is_inner"),
    [
        ({"eth0/uevent": "INTERFACE=eth0"}, False),
        ({"docker0/bridge/bridge_id": "8000", "docker0/uevent": "DEVTYPE=bridge"}, True),
        (
            {"docker0/bridge/bridge_id": "8000", "docker0/brif/veth1/state": "3", "veth1/uevent": "INTERFACE=veth1"},
            True,
        ),
        ({"br0/bridge/bridge_id": "8000", "br0/brif/eno1/state": "3", "eno1/device/vendor": "0x8086"}, False),
        ({"br0/bridge/bridge_id": "8000", "br0/brif/bond0/state": "3", "bond0/uevent": "DEVTYPE=bond"}, False),
        ({"br0/bridge/bridge_id": "8000", "br0/brif/eno1.7/state": "3", "eno1.7/uevent": "DEVTYPE=vlan"}, False),
        ({"br0/bridge/bridge_id": "8000", "br0/brif/gone/state": "3"}, True),
    ],
)
def test_bridges_of_containers_are_not_addresses_of_the_machine(
    tmp_path: Path, files: dict[str, str], is_inner: bool
) -> None:
    write_files(tmp_path / "sys/class/net", files)

    assert net.is_inner_bridge(next(iter(files)).split("/")[0], tmp_path) is is_inner


def test_local_addresses_are_ipv4_and_not_loopback() -> None:
    found = [ipaddress.ip_address(address) for address in net.local_ips()]

    assert all(address.version == 4 and not address.is_loopback for address in found)
    assert len(set(found)) == len(found)


DNS = [
    ({"etc/resolv.conf": "# by hand\nnameserver 192.168.1.1\nnameserver 1.1.1.1\n"}, ["192.168.1.1", "1.1.1.1"]),
    (
        {
            "etc/resolv.conf": "nameserver 127.0.0.53\noptions edns0\n",
            "run/systemd/resolve/resolv.conf": "nameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver 10.0.0.2\n",
        },
        ["10.0.0.2"],
    ),
    ({"etc/docker/daemon.json": '{"dns": ["10.0.0.53", "::1"]}'}, ["10.0.0.53"]),
    ({"etc/docker/daemon.json": "not json", "etc/resolv.conf": "nameserver\nnameserver somewhere\n"}, []),
    ({"etc/docker/daemon.json": '["dns"]'}, []),
    ({"etc/docker/daemon.json": '{"dns": null}'}, []),
    ({}, []),
]


@pytest.mark.parametrize(("files", "found"), DNS)
def test_name_servers_are_those_that_docker_asks(tmp_path: Path, files: dict[str, str], found: list[str]) -> None:
    write_files(tmp_path, files)

    assert list(net.resolvers(tmp_path)) == found
