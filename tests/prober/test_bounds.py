"""Which addresses a prober never tries, and whose word on a caller's address it takes."""

import ipaddress

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from kaalia.errors import ConfigError
from kaalia.prober import bounds
from kaalia.prober.bounds import LOOPBACK, Origin
from kaalia.prober.work import Prober
from kaalia.wire.error import ApiError
from kaalia.wire.probe import ProbeRequest

NONCE = "ab" * 32


def heard(peer: str, *forwarded: str, proxies: tuple[bounds.Network, ...] = LOOPBACK) -> Origin | None:
    class Transport:
        def get_extra_info(self, name: str, default: object = None) -> object:
            return (peer, 4000) if name == "peername" else default

    headers = CIMultiDict([("X-Forwarded-For", one) for one in forwarded])
    request = make_mocked_request("POST", "/", headers=headers, transport=Transport())
    return bounds.origin(request, proxies)


@pytest.mark.parametrize(
    ("address", "is_direct"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("224.0.0.1", True),
        ("ff02::1", True),
        ("255.255.255.255", True),
        ("64:ff9b::a00:1", True),
        ("10.0.0.5", False),
        ("192.168.1.20", False),
        ("100.64.0.2", False),
        ("fd00::7", False),
    ],
)
async def test_inner_addresses_are_not_tried(address: str, is_direct: bool) -> None:
    with pytest.raises(ApiError) as refused:
        await Prober().probe(address, ProbeRequest(NONCE), is_direct=is_direct)

    assert (refused.value.status, refused.value.code) == (403, "probe_address_internal")
    assert "--may-probe" in refused.value.problem.remedy
    allowed = Prober([ipaddress.ip_network(bounds.parse(address))])
    assert (await allowed.probe(address, ProbeRequest(NONCE), is_direct=is_direct)).address == str(
        bounds.parse(address)
    )


@pytest.mark.parametrize(
    ("address", "is_direct"),
    [("192.168.1.20", True), ("100.64.0.2", True), ("fd00::7", True), ("8.8.8.8", False), ("2600::1", False)],
)
async def test_a_neighbour_of_the_same_network_and_the_internet_are(address: str, is_direct: bool) -> None:
    assert (await Prober().probe(address, ProbeRequest(NONCE), is_direct=is_direct)).address == address


async def test_an_address_of_the_probers_own_machine_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounds.is_own(ipaddress.ip_address("127.0.0.1"))
    assert not bounds.is_own(ipaddress.ip_address("192.0.2.77"))
    monkeypatch.setattr(bounds, "is_own", lambda address: str(address) == "192.0.2.77")
    with pytest.raises(ApiError, match="the prober itself has it"):
        await Prober().probe("192.0.2.77", ProbeRequest(NONCE))


def test_only_our_own_proxies_are_believed() -> None:
    assert heard("203.0.113.7") == Origin("203.0.113.7", is_direct=True)
    assert heard("203.0.113.7", "10.0.0.9") == Origin("203.0.113.7", is_direct=False), "a stranger's word"
    assert heard("127.0.0.1", "198.51.100.2") == Origin("198.51.100.2", is_direct=False)
    assert heard("127.0.0.1", "10.0.0.9, 198.51.100.2") == Origin("198.51.100.2", is_direct=False)
    assert heard("127.0.0.1", "10.0.0.9", "198.51.100.2") == Origin("198.51.100.2", is_direct=False), "a second line"
    assert heard("127.0.0.1", "198.51.100.2, 127.0.0.1") == Origin("198.51.100.2", is_direct=False)
    assert heard("127.0.0.1", proxies=()) == Origin("127.0.0.1", is_direct=True)
    assert heard("::ffff:203.0.113.7") == Origin("203.0.113.7", is_direct=True)


@pytest.mark.parametrize("forwarded", [(), ("",), ("unknown",), ("198.51.100.2, unknown",)])
def test_a_proxy_that_does_not_tell_leaves_nobody_to_probe(forwarded: tuple[str, ...]) -> None:
    assert heard("127.0.0.1", *forwarded) is None


def test_networks_of_the_command_line() -> None:
    assert bounds.networks("--may-probe", ["10.0.0.0/8", "::1"]) == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    with pytest.raises(ConfigError, match="cannot use --proxy"):
        bounds.networks("--proxy", ["10.0.0.1/8"])
