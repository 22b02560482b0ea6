"""The marketplace's prober behind a proxy: whose word counts on where requests come from, and where it never goes."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kaalia.errors import MarketplaceError
from kaalia.sync.enroll import load_key
from kaalia.wire import document, signature
from kaalia.wire.probe import PATH_MACHINE_PROBE, ProbeRequest
from tests.marketplace.support import Market
from tests.sync.support import Machine, open_pair
from tests.sync.test_prober import NONCE, link_of


async def test_a_proxy_that_hides_its_clients_is_told_and_its_own_ports_are_not_tried(tmp_path: Path) -> None:
    async with open_pair(tmp_path, behind_proxy=True) as (_, host), link_of(host).open() as ask:
        with pytest.raises(MarketplaceError) as refused:
            await ask(ProbeRequest(NONCE))

    assert (refused.value.status, refused.value.code) == (503, "probe_address_unknown")


async def test_nobody_can_send_the_marketplace_into_its_own_network(tmp_path: Path) -> None:
    """Without a proxy the header is nothing; by our proxy an inner address is not tried, nor is loopback itself."""
    for name in ("plain", "proxied"):
        (tmp_path / name).mkdir()
    async with open_pair(tmp_path / "plain") as (_, host), link_of(host).open() as ask:
        with pytest.raises(MarketplaceError) as loopback:
            await ask(ProbeRequest(NONCE))
    assert (loopback.value.status, loopback.value.code) == (403, "probe_address_internal")

    async with open_pair(tmp_path / "proxied", behind_proxy=True) as (market, host):
        for told in ("10.0.0.9", "127.0.0.1"):
            status, body = await forwarded(market, host, told)
            assert (status, body["error"]) == (403, "probe_address_internal")
        status, body = await forwarded(market, host, "198.51.100.2")
        assert (status, body.get("error")) == (403, "probe_address_internal"), (
            "a network for documentation is no internet"
        )
        status, body = await forwarded(market, host, "8.8.8.8")
        assert (status, body["address"]) == (200, "8.8.8.8")


async def forwarded(market: Market, host: Machine, told: str) -> tuple[int, dict[str, Any]]:
    """A genuine request, as a proxy of the same machine passes it on."""
    path = PATH_MACHINE_PROBE.format(machine_id=host.member.machine_id)
    body = document.encode(ProbeRequest(NONCE)).encode()
    key = await asyncio.to_thread(load_key, host.state_dir)
    headers = signature.sign_request(key, "POST", path, body, host.clock.now(), secrets.token_urlsafe(16))
    headers |= {"Content-Type": "application/json", "X-Forwarded-For": told}
    async with (
        aiohttp.ClientSession() as session,
        session.post(market.url + path, data=body, headers=headers) as reply,
    ):
        return reply.status, await reply.json()
