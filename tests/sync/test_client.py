import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from kaalia.errors import ConfigError, MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.sync import client as module
from kaalia.sync.client import MarketplaceClient, check_url
from kaalia.sync.enroll import load_key
from kaalia.units import MIB
from kaalia.wire import signature
from kaalia.wire.protocol import StatusPost, StatusReply
from tests.support.clock import FakeClock
from tests.sync.support import open_pair

CLOCK = FakeClock()
POST = StatusPost("s", 1, 1, CLOCK.now(), ())
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def open_client(handler: Handler) -> AsyncIterator[MarketplaceClient]:
    """A client of a server whose every answer is `handler`'s."""
    app = web.Application(client_max_size=32 * MIB)
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app, host="127.0.0.1") as server:
        client = MarketplaceClient(f"http://127.0.0.1:{server.port}", 7, signature.generate_key(), CLOCK)
        try:
            yield client
        finally:
            await client.close()


async def failure(handler: Handler) -> MarketplaceError:
    async with open_client(handler) as client:
        with pytest.raises(MarketplaceError) as caught:
            await client.post_status(POST)
    return caught.value


def answer(status: int, code: str = "some_code", **headers: str) -> Handler:
    async def handle(_: web.Request) -> web.StreamResponse:
        body = json.dumps({"success": False, "error": code, "msg": "cannot do it"})
        return web.Response(status=status, text=body, content_type="application/json", headers=headers)

    return handle


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, UnauthorizedError), (403, UnauthorizedError), (409, MarketplaceError), (429, UnreachableError)]
    + [(status, UnreachableError) for status in (500, 502, 503, 504)],
)
async def test_refusals_keep_code_and_sentence(status: int, kind: type[MarketplaceError]) -> None:
    error = await failure(answer(status))
    assert type(error) is kind
    assert (error.code, error.status) == ("some_code", status)
    assert "cannot do it" in str(error)


async def test_refusal_without_our_body_is_still_an_error() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text="<html>bad gateway</html>")

    error = await failure(handle)
    assert error.code == "marketplace_refused"
    assert "502" in str(error)


async def test_retry_after_is_passed_on() -> None:
    assert (await failure(answer(503, **{"Retry-After": "17"}))).retry_after_s == 17
    assert (await failure(answer(503, **{"Retry-After": "soon"}))).retry_after_s is None
    assert (await failure(answer(429, **{"Retry-After": "99999999"}))).retry_after_s == 3600


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_refused_and_not_followed(status: int) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    error = await failure(handle)
    assert error.code == "redirect_refused"
    assert asked == ["/kaalia/v1/machines/7/status"]


async def test_huge_answer_is_refused() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(20):
                await response.write(b"x" * MIB)
        except ConnectionError:
            pass  # as it should: the client hangs up
        return response

    assert (await failure(handle)).code == "reply_too_large"


async def test_answer_of_another_server_is_refused() -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>welcome</html>")

    assert (await failure(handle)).code == "reply_invalid"


async def test_nobody_there_is_unreachable() -> None:
    client = MarketplaceClient("http://127.0.0.1:1", 7, signature.generate_key(), CLOCK)
    with pytest.raises(UnreachableError) as caught:
        await client.post_status(POST)
    await client.close()
    assert caught.value.code == "marketplace_unreachable"


async def test_silence_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 0.2)

    async def handle(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(1)
        return web.Response()

    async with open_client(handle) as client:
        with pytest.raises(UnreachableError):
            await client.desired(0, 0, 0)


async def test_connection_is_used_again_beside_a_long_poll() -> None:
    peers: dict[str, set[object]] = {"GET": set(), "POST": set()}
    release = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers[request.method].add(request.transport.get_extra_info("peername"))
        if request.method == "GET":
            await release.wait()
            return web.Response(status=204)
        return web.json_response({"acked_seq": 0, "server_time": "2026-01-01T00:00:00Z"})

    async with open_client(handle) as client:
        poll = asyncio.ensure_future(client.desired(0, 0, 30))
        for _ in range(5):
            await client.post_status(POST)
        release.set()
        assert await poll is None

    assert len(peers["POST"]) == 1
    assert not peers["POST"] & peers["GET"]


async def test_whole_conversation_holds_against_the_real_marketplace(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, machine):
        envelope = await machine.client.desired(0, 0, 0)
        reply = await machine.client.post_status(replace(POST, as_of=market.clock.now()))
        with pytest.raises(MarketplaceError) as caught:
            await machine.client.registry_login(1)

    assert envelope is not None
    assert reply == StatusReply(0, market.clock.now(), "127.0.0.1", reliability=0.95)
    assert caught.value.code == "contract_unknown"


async def test_wrong_clock_of_the_machine_is_told(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, machine):
        machine.clock.advance(-400)
        with pytest.raises(UnreachableError) as caught:
            await machine.client.desired(0, 0, 0)

    assert caught.value.code == "clock_skew"
    assert "NTP" in str(caught.value)


async def test_the_marketplaces_time_is_heard_from_answers_and_from_the_refusal_of_a_wrong_clock(
    tmp_path: Path,
) -> None:
    told: list[datetime] = []

    async def hear(server_at: datetime) -> None:
        told.append(server_at)

    async with open_pair(tmp_path) as (market, machine):
        key = await asyncio.to_thread(load_key, machine.state_dir)
        client = MarketplaceClient(machine.member.url, machine.member.machine_id, key, machine.clock, heard=hear)
        try:
            await client.post_status(StatusPost("s", 0, 0, machine.clock.now(), ()))
            machine.clock.advance(-400)
            with pytest.raises(UnreachableError):
                await client.desired(0, 0, 0)
        finally:
            await client.close()

    assert told == [market.clock.now()] * 2


def make_certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey ed25519 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_only_trusted_certificates_are_spoken_to(tmp_path: Path) -> None:
    certificate, private = await asyncio.to_thread(make_certificate, tmp_path)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate, private)

    async def handle(_: web.Request) -> web.StreamResponse:
        return web.json_response({"acked_seq": 3, "server_time": "2026-01-01T00:00:00Z"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(ssl=server_tls)
    url, key = f"https://localhost:{server.port}", signature.generate_key()
    trusting = MarketplaceClient(url, 7, key, CLOCK, ssl.create_default_context(cafile=str(certificate)))
    careful = MarketplaceClient(url, 7, key, CLOCK)
    try:
        reply = await trusting.post_status(POST)
        with pytest.raises(UnreachableError) as caught:
            await careful.post_status(POST)
    finally:
        await trusting.close()
        await careful.close()
        await server.close()

    assert reply.acked_seq == 3
    assert caught.value.code == "tls_untrusted"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.com", "tls_required"),
        ("http://10.0.0.1:8080", "tls_required"),
        ("http://127.0.0.1.example.com", "tls_required"),
        ("ftp://example.com", "url_invalid"),
        ("https://user:secret@example.com", "url_invalid"),
        ("https://example.com/?key=secret", "url_invalid"),
        ("https://", "url_invalid"),
        ("example.com", "url_invalid"),
        ("https://example.com:99999", "url_invalid"),
    ],
)
def test_bad_urls_are_refused_without_quoting_secrets(url: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://example.com", "https://example.com/base", "http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"],
)
def test_good_urls_lose_their_last_slash_only(url: str) -> None:
    assert check_url(url) == check_url(url + "/") == url
