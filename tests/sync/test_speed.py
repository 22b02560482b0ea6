"""A speed test between a machine and its marketplace, in process, with the marketplace's peer as the child it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import unused_port

from kaalia.capability.speed import SpeedService, Wanted
from kaalia.cli.speed_peer import PeerChild
from kaalia.errors import MarketplaceError, UnreachableError
from kaalia.store import speed
from kaalia.store.changes import Topic
from kaalia.sync.speed import SpeedLink
from kaalia.wire.speed import SpeedGrant, SpeedRequest
from tests.marketplace.support import Market
from tests.support.clock import FakeClock
from tests.sync.support import Machine, open_pair, open_state
from tests.sync.test_push import push_of

pytestmark = pytest.mark.timeout(60)
HERE = "127.0.0.1"
REQUEST = SpeedRequest(2, 1, 10**9)


def link_of(host: Machine) -> SpeedLink:
    return SpeedLink(host.database, host.state_dir, host.clock)


@asynccontextmanager
async def serving_pair(folder: Path) -> AsyncIterator[tuple[Market, Machine, PeerChild]]:
    """A marketplace that has a peer."""
    peer = PeerChild(HERE, 0)
    await peer.open()
    try:
        async with open_pair(folder) as (market, host):
            market.context.speed = peer
            yield market, host, peer
    finally:
        await peer.close()


async def test_a_machine_measures_with_its_marketplace(tmp_path: Path) -> None:
    async with serving_pair(tmp_path) as (market, host, _):
        await push_of(host).once()
        wanted = Wanted(None, None, timedelta(days=1), 10**9, streams=2, seconds=1)
        service = SpeedService(host.database, host.changes, host.clock, wanted, link_of(host))
        found = await service.test(None)

        assert found is not None, await host.database.read(speed.get_failure)
        assert (found.peer, found.address, found.streams) == (market.url, HERE, 2)
        assert min(found.down.mbps, found.up.mbps) > 100


async def test_one_order_at_a_time_and_a_peer_that_died_is_started_again(tmp_path: Path) -> None:
    async with serving_pair(tmp_path) as (_, host, peer):
        place, grant = await link_of(host).grant(REQUEST)
        assert (place, grant.streams, grant.seconds, grant.bytes_max) == (HERE, 2, 1, 10**9)
        assert grant.key not in repr(grant)
        with pytest.raises(UnreachableError) as refused:
            await link_of(host).grant(REQUEST)
        assert (refused.value.status, refused.value.code) == (429, "speed_busy")
        assert refused.value.retry_after_s is not None

        await peer.close()
        again = (await link_of(host).grant(REQUEST))[1]
        assert again.port == grant.port


async def test_a_marketplace_without_a_peer_says_so(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host):
        with pytest.raises(MarketplaceError) as refused:
            await link_of(host).grant(REQUEST)
        assert (refused.value.status, refused.value.code) == (404, "speed_not_served")
        with pytest.raises(MarketplaceError) as refused:
            await link_of(host).grant(SpeedRequest(0, 1, 1))
        assert (refused.value.status, refused.value.code) == (400, "speed_invalid")


async def test_a_stranger_gets_no_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with serving_pair(tmp_path / "a") as (_, host, _), open_pair(tmp_path / "b"):
        (tmp_path / "a/machine/identity.pem").write_bytes((tmp_path / "b/machine/identity.pem").read_bytes())
        with pytest.raises(MarketplaceError) as refused:
            await link_of(host).grant(REQUEST)

    assert refused.value.status == 401


async def test_a_machine_that_is_not_enrolled_has_no_marketplace_to_measure_with(tmp_path: Path) -> None:
    async with open_state(tmp_path) as (database, _):
        link = SpeedLink(database, tmp_path, FakeClock())
        assert await link.name() is None
        with pytest.raises(UnreachableError, match="not enrolled"):
            await link.grant(REQUEST)


async def test_another_place_of_the_bytes_is_told_to_machines(tmp_path: Path) -> None:
    peer = PeerChild(HERE, unused_port(), ("speed.example", 8091))
    await peer.open()
    try:
        async with open_pair(tmp_path) as (market, host):
            market.context.speed = peer
            place, grant = await link_of(host).grant(REQUEST)
    finally:
        await peer.close()

    assert (place, grant.port) == ("speed.example", 8091)


class Strange:
    """A marketplace that grants what cannot be meant."""

    def __init__(self, grant: SpeedGrant) -> None:
        self.made = grant

    async def grant(self, owner: str, request: SpeedRequest) -> SpeedGrant:
        assert owner == "machine 1"
        assert request == REQUEST
        return self.made


@pytest.mark.parametrize(
    "changes", [{"order": "aa"}, {"key": "zz" * 32}, {"port": 0}, {"port": 70000}, {"streams": 0}, {"seconds": -1}]
)
async def test_an_order_that_cannot_be_meant_is_not_carried_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    sound = SpeedGrant("aa" * 16, "bb" * 32, None, 8091, 2, 1, 10**9)
    async with open_pair(tmp_path) as (market, host):
        market.context.speed = Strange(sound)
        assert (await link_of(host).grant(REQUEST))[1] == sound
        market.context.speed = Strange(replace(sound, **changes))
        with pytest.raises(MarketplaceError) as refused:
            await link_of(host).grant(REQUEST)

    assert refused.value.code == "reply_invalid"


async def test_a_new_address_rings_for_the_report_and_the_tests(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host):
        bell = host.changes.subscribe(Topic.ADDRESS)
        push = push_of(host)
        await push.once()
        assert bell.is_set()
        bell.clear()
        await push.once()
        assert not bell.is_set()
