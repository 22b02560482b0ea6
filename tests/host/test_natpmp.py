"""The router's outer address by NAT-PMP: a router that answers, one that does not, and answers that are none."""

import asyncio
import ipaddress
import socket

import pytest

from kaalia.host import natpmp

GOOD = bytes([0, 128, 0, 0, 0, 0, 1, 2]) + ipaddress.IPv4Address("100.64.0.2").packed


def test_an_answer_is_read() -> None:
    assert natpmp.parse(GOOD) == "100.64.0.2"


@pytest.mark.parametrize(
    "data", [b"", GOOD[:-1], GOOD + b"x", bytes([0, 128, 0, 3]) + GOOD[4:], bytes([2]) + GOOD[1:], GOOD[:8] + bytes(4)]
)
def test_what_is_no_answer_tells_nothing(data: bytes) -> None:
    assert natpmp.parse(data) is None


async def test_a_router_is_asked_and_one_that_is_silent_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as router:
        router.setblocking(False)
        router.bind(("127.0.0.1", 0))
        monkeypatch.setattr(natpmp, "PORT", router.getsockname()[1])
        monkeypatch.setattr(natpmp, "TIMEOUT_S", 0.2)

        asked = asyncio.ensure_future(natpmp.outer_address("127.0.0.1"))
        data, peer = await asyncio.get_running_loop().sock_recvfrom(router, 64)
        router.sendto(GOOD, peer)
        assert (data, await asked) == (bytes([0, 0]), "100.64.0.2")
        assert await natpmp.outer_address("127.0.0.1") is None
    assert await natpmp.outer_address("127.0.0.1") is None  # refused now
