"""What the kernel is asked about links, in a network namespace of the test's own."""

import subprocess
from collections.abc import Iterator

import pytest

from kaalia.errors import HostError
from kaalia.host import localnet
from tests.support.own_network import is_possible, own_network


@pytest.fixture
def bridge() -> Iterator[str]:
    if not is_possible():
        pytest.skip("needs network namespaces: run scripts/test as root")
    with own_network():
        subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
        yield "br0"


def setting(interface: str) -> str:
    words = ["sysctl", "-n", f"net.ipv4.conf.{interface}.route_localnet"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def test_one_interface_routes_loopback_and_no_other(bridge: str) -> None:
    before = setting(bridge)

    localnet.route_localnet(bridge)

    assert (before, setting(bridge)) == ("0", "1")
    assert {setting(name) for name in ("all", "default", "lo")} == {"0"}
    localnet.route_localnet(bridge)
    assert setting(bridge) == "1"


@pytest.mark.usefixtures("bridge")
def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match="br9") as caught:
        localnet.route_localnet("br9")

    assert caught.value.code == "link_refused"
