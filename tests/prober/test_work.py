"""A prober against real sockets of this machine, and what it refuses to do."""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from kaalia.host.answering import Answering
from kaalia.model.reach import Outcome, Place
from kaalia.model.workload import Protocol
from kaalia.prober import app, dial, work
from kaalia.prober.bounds import LOOPBACK
from kaalia.prober.work import Prober
from kaalia.wire import document, probe
from kaalia.wire.error import ApiError
from kaalia.wire.probe import PATH_PROBE, ProbeReply, ProbeRequest, ProbeResult, ProbeTarget

HERE = "127.0.0.1"
NONCE, SECRET = b"n" * 32, b"s" * 32
TCP, UDP = Protocol.TCP, Protocol.UDP


def free_port() -> int:
    """Free for both protocols."""
    while True:
        with socket.socket() as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            one.bind(("0.0.0.0", 0))
            port = int(one.getsockname()[1])
            with contextlib.suppress(OSError):
                other.bind(("0.0.0.0", port))
                return port


def reply(port: int, protocol: Protocol, data: bytes) -> bytes | None:
    asked = probe.read_question(NONCE, protocol, data)
    return None if asked is None else probe.answer(NONCE, SECRET, protocol, port, asked.challenge)


def ask(*places: Place, connect_only: bool = False, address: str | None = None) -> ProbeRequest:
    return ProbeRequest(NONCE.hex(), tuple(ProbeTarget(*place, connect_only) for place in places), address)


@asynccontextmanager
async def listening(*places: Place, answer: Callable[..., bytes | None] = reply) -> AsyncIterator[Answering]:
    answering = Answering()
    assert await answering.open(places, answer) == ()
    try:
        yield answering
    finally:
        answering.close()


async def results(request: ProbeRequest, prober: Prober | None = None) -> dict[Place, ProbeResult]:
    found = await (prober or Prober(LOOPBACK)).probe(HERE, request)
    assert (found.seen_address, found.address) == (HERE, HERE)
    return {(one.port, one.protocol): one for one in found.results}


async def test_ports_that_answer_are_proven_and_those_that_refuse_are_not() -> None:
    open_port, closed = free_port(), free_port()
    places = [(open_port, TCP), (open_port, UDP), (closed, TCP), (closed, UDP)]
    async with listening(*places[:2]):
        found = await results(ask(*places))

    assert [found[place].outcome for place in places] == [Outcome.ANSWERED] * 2 + [Outcome.REFUSED] * 2
    assert all(probe.is_proof(SECRET, found[place]) for place in places[:2])
    assert found[places[0]].answered_port == open_port


async def test_somebody_else_who_answers_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "ANSWER_S", 0.3)
    monkeypatch.setattr(dial, "UDP_S", 0.3)
    monkeypatch.setattr(dial, "SENDINGS_AT_S", (0.0,))
    web, mute = free_port(), free_port()
    places = [(web, TCP), (web, UDP), (mute, TCP), (mute, UDP)]
    async with (
        listening(*places[:2], answer=lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(30)),
        listening(*places[2:], answer=lambda *_: None),
    ):
        found = await results(ask(*places))

    assert [found[place].outcome for place in places] == [Outcome.OTHER] * 3 + [Outcome.SILENT]


async def test_an_answer_that_came_to_another_port_says_so() -> None:
    port = free_port()
    async with listening((port, TCP), answer=lambda at, *rest: reply(at + 1, *rest)):
        found = await results(ask((port, TCP)))

    assert found[port, TCP].outcome is Outcome.ANSWERED
    assert found[port, TCP].answered_port == port + 1


async def test_a_port_that_somebody_uses_gets_a_connection_and_not_a_byte() -> None:
    heard: list[bytes] = []

    def note(_: int, __: Protocol, data: bytes) -> None:
        heard.append(data)

    port = free_port()
    async with listening((port, TCP), (port, UDP), answer=note):
        found = await results(ask((port, TCP), (port, UDP), connect_only=True))
        await asyncio.sleep(0.05)

    assert found[port, TCP].outcome is Outcome.CONNECTED
    assert found[port, UDP].outcome is Outcome.SILENT
    assert not any(heard)


async def test_strangers_get_no_answer() -> None:
    port = free_port()
    async with listening((port, TCP), (port, UDP)):
        reader, writer = await asyncio.open_connection(HERE, port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read(100) == b""
        writer.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.sendto(b"x" * 42, (HERE, port))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.get_running_loop().sock_recv(stranger, 100), 0.2)


async def test_a_port_in_use_is_named_and_one_that_is_given_up_is_free_at_once() -> None:
    port, used = free_port(), free_port()
    with socket.create_server(("0.0.0.0", used)):
        answering = Answering()
        assert await answering.open([(port, TCP), (used, TCP), (used, UDP)], reply) == ((used, TCP),)
        assert await asyncio.to_thread(answering.release, (port, TCP))
        with socket.create_server(("0.0.0.0", port)):
            pass
        assert not answering.release((port, TCP))
        assert set(answering.places) == {(used, UDP)}
        answering.close()


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (ProbeRequest("00"), 400, "probe_invalid"),
        (ProbeRequest("zz" * 32), 400, "probe_invalid"),
        (ask((80, TCP)), 400, "probe_invalid"),
        (ask((70000, TCP)), 400, "probe_invalid"),
        (ask((4000, TCP), (4000, TCP)), 400, "probe_invalid"),
        (ask(*((port, TCP) for port in range(2000, 2513))), 400, "probe_invalid"),
        (ask((4000, TCP), address="example.com"), 400, "probe_invalid"),
        (ask((4000, TCP), address="192.0.2.1"), 403, "probe_address_foreign"),
        (ask(address="192.0.2.1"), 403, "probe_address_foreign"),
    ],
)
async def test_it_is_no_scanner_for_hire(request_: ProbeRequest, status: int, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        await Prober().probe(HERE, request_)

    assert (refused.value.status, refused.value.code) == (status, code)


async def test_an_address_that_the_operator_allows_is_tried() -> None:
    port = free_port()
    prober = Prober([ipaddress.ip_network("127.0.0.0/8")])
    async with listening((port, TCP)):
        found = await prober.probe("192.0.2.9", ask((port, TCP), address=HERE))

    assert (found.seen_address, found.address) == ("192.0.2.9", HERE)
    assert found.results[0].outcome is Outcome.ANSWERED


async def test_an_ipv4_caller_of_a_double_stack_socket_is_one() -> None:
    found = await Prober().probe("::ffff:203.0.113.7", ProbeRequest(NONCE.hex()))

    assert found == ProbeReply("203.0.113.7", "203.0.113.7")


async def test_one_probe_at_a_time_and_so_many_ports_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    prober = Prober(LOOPBACK, targets_per_hour=5)
    monkeypatch.setattr(dial, "ANSWER_S", 0.3)
    with socket.create_server((HERE, port)):  # takes connections, and says nothing
        first = asyncio.ensure_future(prober.probe(HERE, ask((port, TCP), (port + 1, TCP))))
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError, match="another probe") as busy:
            await prober.probe(HERE, ask((port, TCP)))
        await first

    assert (busy.value.status, busy.value.code) == (429, "probe_busy")
    with pytest.raises(ApiError) as often:
        await prober.probe(HERE, ask(*((port + more, TCP) for more in range(4))))
    assert (often.value.code, often.value.extra["retry_after_s"] > 100) == ("probe_too_often", True)
    assert await prober.probe("::1", ProbeRequest(NONCE.hex()))


async def test_of_ports_that_were_not_tried_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.create_server((HERE, port)), pytest.raises(ApiError, match="0 of 1 ports were tried in time") as late:
        await results(ask((port, TCP)), Prober(LOOPBACK, deadline_s=0.1))
    assert (late.value.status, late.value.code) == (503, "prober_overloaded")

    async def lacking(*_: object) -> ProbeResult:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(work, "dial", lacking)
    with pytest.raises(ApiError, match="Too many open files") as full:
        await results(ask((port, TCP), (port, UDP)))
    assert full.value.code == "prober_overloaded"


async def test_alone_it_answers_over_http_those_whom_it_serves() -> None:
    async def post(server: TestServer, data: bytes, forwarded: str | None = None) -> tuple[int, bytes]:
        headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{server.port}{PATH_PROBE}", data=data, headers=headers) as answer,
        ):
            assert answer.headers["Content-Type"] == "application/json"
            return answer.status, await answer.read()

    body = document.encode(ProbeRequest(NONCE.hex())).encode()
    server = TestServer(app.build(Prober(LOOPBACK)), host=HERE)
    await server.start_server()
    assert await post(server, body) == (200, document.encode(ProbeReply(HERE, HERE)).encode())
    status, text = await post(server, b"{}")
    assert (status, b"document_invalid" in text) == (400, True)
    await server.close()

    closed = TestServer(app.build(Prober(), [ipaddress.ip_network("203.0.113.0/24")]), host=HERE)
    await closed.start_server()
    status, text = await post(closed, body)
    assert (status, b"probe_forbidden" in text) == (403, True)
    await closed.close()

    proxied = TestServer(app.build(Prober(), [ipaddress.ip_network("8.8.8.0/24")], LOOPBACK), host=HERE)
    await proxied.start_server()
    status, text = await post(proxied, body)
    assert (status, b"probe_address_unknown" in text) == (503, True)
    assert await post(proxied, body, "8.8.8.8") == (200, document.encode(ProbeReply("8.8.8.8", "8.8.8.8")).encode())
    status, text = await post(proxied, body, "8.8.4.4")
    assert (status, b"probe_forbidden" in text) == (403, True)
    await proxied.close()


async def test_a_connection_that_answered_is_cut_and_one_that_is_only_looked_at_is_closed() -> None:
    """Routers remember a cut one for 10 s, a closed one for 120 s. A renter's program reads an ordinary end."""
    ends: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.read(probe.MESSAGE_BYTES)
            asked = probe.read_question(NONCE, TCP, data)
            if asked is not None:
                writer.write(probe.answer(NONCE, SECRET, TCP, asked.port, asked.challenge))
                data = await reader.read()
            ends.append("closed" if not data else "more came")
        except ConnectionResetError:
            ends.append("cut")
        writer.close()

    server = await asyncio.start_server(serve, HERE, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        asked = await dial.dial(HERE, ProbeTarget(port, TCP), NONCE)
        looked = await dial.dial(HERE, ProbeTarget(port, TCP, connect_only=True), NONCE)
        async with asyncio.timeout(30):
            while len(ends) < 2:
                await asyncio.sleep(0.01)

    assert (asked.outcome, looked.outcome) == (Outcome.ANSWERED, Outcome.CONNECTED)
    assert ends == ["cut", "closed"]
