import sys
from pathlib import Path

import pytest

from kaalia.host.net import default_gateway, routed_networks

HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def hex_of(address: str) -> str:
    """An address as the kernel of this machine prints it."""
    return f"{int.from_bytes(bytes(map(int, address.split('.'))), sys.byteorder):08X}"


def route(network: str, mask: str, flags: str = "0001") -> str:
    return f"eth0\t{hex_of(network)}\t00000000\t{flags}\t0\t0\t0\t{hex_of(mask)}\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("lines", "networks"),
    [
        ("", ()),
        (route("0.0.0.0", "0.0.0.0", "0003"), ()),
        (route("10.214.0.16", "255.255.255.240"), ("10.214.0.16/28",)),
        (route("192.168.1.0", "255.255.255.0") * 2, ("192.168.1.0/24",)),
        (route("172.17.0.0", "255.255.0.0", "0000"), ()),
    ],
)
def test_routed_networks_are_those_that_are_up_without_the_default(
    tmp_path: Path, lines: str, networks: tuple[str, ...]
) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(HEADER + lines)

    assert routed_networks(tmp_path) == networks


@pytest.mark.parametrize(
    ("lines", "gateway"),
    [
        ("", None),
        (route("192.168.1.0", "255.255.255.0"), None),
        ("ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", None),
        (f"eth0\t00000000\t{hex_of('192.168.1.1')}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", "192.168.1.1"),
    ],
)
def test_the_gateway_is_that_of_the_default_route(tmp_path: Path, lines: str, gateway: str | None) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(HEADER + lines)

    assert default_gateway(tmp_path) == gateway
    assert default_gateway(tmp_path / "none") is None
