"""The way to a prober: the marketplace's by signed requests, another one over HTTP, and what can be wrong with it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kaalia.errors import MarketplaceError, UnreachableError
from kaalia.marketplace import sightings
from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from kaalia.prober import app
from kaalia.prober.bounds import LOOPBACK
from kaalia.prober.work import Prober
from kaalia.store import reach
from kaalia.store.changes import Topic
from kaalia.sync.prober import ProberLink
from kaalia.wire import probe
from kaalia.wire.probe import PATH_PROBE, ProbeReply, ProbeRequest, ProbeTarget
from tests.support.clock import FakeClock
from tests.sync.support import Machine, open_pair, open_state
from tests.sync.test_push import push_of

NONCE = "ab" * 32
HERE = "127.0.0.1"


def link_of(host: Machine, url: str | None = None) -> ProberLink:
    return ProberLink(url, host.database, host.state_dir, host.clock)


@asynccontextmanager
async def serving(made: web.Application) -> AsyncIterator[str]:
    server = TestServer(made, host=HERE)
    await server.start_server()
    try:
        yield f"http://{HERE}:{server.port}"
    finally:
        await server.close()


def saying(text: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Application:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status, headers=headers)

    made = web.Application()
    made.router.add_post(PATH_PROBE, answer)
    return made


async def test_the_marketplace_tries_ports_for_its_machines(tmp_path: Path) -> None:
    async with open_pair(tmp_path, may_probe=LOOPBACK) as (market, host):
        link = link_of(host)
        assert await link.name() == market.url
        with socket.create_server((HERE, 0)) as door:
            port = int(door.getsockname()[1])
            async with link.open() as ask:
                assert await ask(ProbeRequest(NONCE)) == ProbeReply(HERE, HERE)
                reply = await ask(ProbeRequest(NONCE, (ProbeTarget(port, Protocol.TCP, connect_only=True),)))

    assert [one.outcome for one in reply.results] == [Outcome.CONNECTED]


class Door(asyncio.DatagramProtocol):
    """Answers the questions of the prober that knows the nonce."""

    def __init__(self, port: int) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        nonce = bytes.fromhex(NONCE)
        if (asked := probe.read_question(nonce, Protocol.UDP, data)) is not None:
            self._transport.sendto(probe.answer(nonce, b"s", Protocol.UDP, self._port, asked.challenge), addr)


async def test_the_marketplace_remembers_what_it_reached(tmp_path: Path) -> None:
    async with open_pair(tmp_path, may_probe=LOOPBACK) as (market, host):
        door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        door.bind((HERE, 0))
        port = int(door.getsockname()[1])
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Door(port), sock=door)
        async with link_of(host).open() as ask:
            await ask(ProbeRequest(NONCE))
            async with market.context.engine.begin() as tx:
                before = await sightings.get(tx, host.member.machine_id)
            await ask(ProbeRequest(NONCE, (ProbeTarget(port, Protocol.UDP),)))
            transport.close()
        async with market.context.engine.begin() as tx:
            seen = await sightings.get(tx, host.member.machine_id)

    assert before is None
    assert seen is not None
    assert (seen.address, seen.tcp, seen.udp) == (HERE, (), ((port, port),))


async def test_the_marketplace_tries_nobody_elses_address(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host), link_of(host).open() as ask:
        with pytest.raises(MarketplaceError) as refused:
            await ask(ProbeRequest(NONCE, (), "192.0.2.1"))

    assert (refused.value.status, refused.value.code) == (403, "probe_address_foreign")


async def test_a_stranger_cannot_use_the_marketplaces_prober(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with open_pair(tmp_path / "a") as (_, host), open_pair(tmp_path / "b") as (_, other):
        (tmp_path / "a/machine/identity.pem").write_bytes((tmp_path / "b/machine/identity.pem").read_bytes())
        async with link_of(host).open() as ask:
            with pytest.raises(MarketplaceError) as refused:
                await ask(ProbeRequest(NONCE))
        assert other.member

    assert refused.value.status == 401


async def test_a_machine_that_is_not_enrolled_has_no_prober(tmp_path: Path) -> None:
    async with open_state(tmp_path) as (database, _):
        link = ProberLink(None, database, tmp_path, FakeClock())
        assert await link.name() is None
        with pytest.raises(UnreachableError, match="not enrolled"):
            async with link.open():
                pass


async def test_a_prober_of_its_own_needs_no_enrolment(tmp_path: Path) -> None:
    async with open_state(tmp_path) as (database, _), serving(app.build(Prober(LOOPBACK))) as url:
        link = ProberLink(url, database, tmp_path, FakeClock())
        assert await link.name() == url
        async with link.open() as ask:
            assert await ask(ProbeRequest(NONCE)) == ProbeReply(HERE, HERE)
            with pytest.raises(MarketplaceError) as refused:
                await ask(ProbeRequest("00"))

    assert (refused.value.status, refused.value.code) == (400, "probe_invalid")


@pytest.mark.parametrize(
    ("made", "code", "is_transient"),
    [
        (saying("{}"), "prober_not_understood", False),
        (saying("<html>"), "prober_not_understood", False),
        (saying("x" * 2_000_000), "prober_not_understood", False),
        (saying("<html>", 404), "prober_refused", False),
        (saying("<html>", 502), "prober_refused", True),
        (saying('{"error": "probe_busy", "msg": "later"}', 429, {"Retry-After": "7"}), "probe_busy", True),
        (saying("", 302, {"Location": "http://127.0.0.1:1/"}), "prober_refused", False),
    ],
)
async def test_what_is_no_prober_is_told(tmp_path: Path, made: web.Application, code: str, is_transient: bool) -> None:
    async with (
        open_state(tmp_path) as (database, _),
        serving(made) as url,
        ProberLink(url, database, tmp_path, FakeClock()).open() as ask,
    ):
        with pytest.raises(MarketplaceError) as refused:
            await ask(ProbeRequest(NONCE))

    assert refused.value.code == code
    assert isinstance(refused.value, UnreachableError) == is_transient
    assert refused.value.retry_after_s == (7 if code == "probe_busy" else None)


async def test_a_prober_that_is_not_there_is_told(tmp_path: Path) -> None:
    async with (
        open_state(tmp_path) as (database, _),
        ProberLink("http://127.0.0.1:9", database, tmp_path, FakeClock()).open() as ask,
    ):
        with pytest.raises(UnreachableError) as refused:
            await ask(ProbeRequest(NONCE))

    assert refused.value.code == "prober_unreachable"


async def test_the_heartbeat_tells_the_address_and_news_of_it_rings(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, host):
        bell = host.changes.subscribe(Topic.PORTS)
        push = push_of(host)
        await push.once()

        assert bell.is_set()
        assert await host.database.read(reach.get_seen_address) == HERE
        bell.clear()
        await push.once()
        assert not bell.is_set()
