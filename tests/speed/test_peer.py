"""Who gets bytes from a peer, and how many: orders, secrets, limits, and what is asked twice."""

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kaalia.model.speed import Direction
from kaalia.speed.peer import Order, Peer, Refused
from kaalia.speed.sockets import read_exactly
from kaalia.wire import stream
from kaalia.wire.stream import Ask, Verdict
from tests.support.speed_peers import HERE, SECRET, serving

ORDER, KEY = b"o" * 16, b"k" * 32


def order(owner: str = "machine 7", streams: int = 2, seconds: int = 2, bytes_max: int = 2_000_000) -> Order:
    return Order(owner, KEY, streams, seconds, bytes_max)


def verdict(port: int, key: bytes = KEY, **changes: object) -> Verdict | None:
    with asked(port, key, **changes) as (said, _):
        return said


@contextmanager
def asked(port: int, key: bytes = KEY, **changes: object) -> Iterator[tuple[Verdict | None, socket.socket]]:
    """One stream: what the peer says, and the connection."""
    with socket.create_connection((HERE, port), 5) as connection:
        yield _ask(connection, key, **changes), connection


def _ask(connection: socket.socket, key: bytes, **changes: object) -> Verdict | None:
    greeting = stream.read_greeting(read_exactly(connection, stream.GREETING_BYTES))
    assert greeting is not None
    fields = {"direction": Direction.DOWN, "index": 0, "streams": 2, "seconds": 2, "bytes_max": 10**12, **changes}
    wanted = Ask(**{"order": ORDER, "challenge": secrets.token_bytes(16), **fields})  # type: ignore[arg-type]
    connection.sendall(stream.ask(key, greeting, wanted))
    data = read_exactly(connection, stream.VERDICT_BYTES)
    return stream.read_verdict(key, greeting, wanted.challenge, data)


def test_a_stranger_gets_a_greeting_and_no_more() -> None:
    with serving(Peer()) as port:
        for key, wanted in ((KEY, Verdict.UNKNOWN), (bytes(32), Verdict.UNKNOWN)):
            with asked(port, key) as (said, connection):
                assert said is wanted
                assert connection.recv(1) == b""
        with socket.create_connection((HERE, port), 5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(200))
            with contextlib.suppress(ConnectionResetError):
                assert len(read_exactly(connection, 1000)) == stream.GREETING_BYTES


def test_an_order_opens_each_stream_once_each_way_and_gives_what_was_agreed() -> None:
    peer = Peer()
    peer.add(ORDER, order())
    with serving(peer) as port:
        assert verdict(port, bytes(32)) is Verdict.UNKNOWN, "another key"
        with asked(port) as (said, connection):
            assert said is Verdict.GO
            assert len(read_exactly(connection, 10**7)) == 1_000_000, "half of the order's bytes: it has two streams"
        assert verdict(port) is Verdict.TAKEN
        assert verdict(port, index=2) is Verdict.TAKEN
        assert verdict(port, direction=Direction.UP) is Verdict.GO


def test_an_upload_is_counted_and_cut_at_its_limit() -> None:
    peer = Peer()
    peer.add(ORDER, order())
    with serving(peer) as port, asked(port, direction=Direction.UP, bytes_max=500) as (said, connection):
        assert said is Verdict.GO
        with contextlib.suppress(OSError):
            connection.sendall(bytes(50_000_000))
            raise AssertionError("it took a hundred times what was agreed")


def test_a_machine_has_one_test_at_a_time_and_so_many_an_hour() -> None:
    peer = Peer(at_once=2, per_hour=3)
    peer.add(b"1" * 16, order())
    with pytest.raises(Refused) as refused:
        peer.add(b"2" * 16, order())
    assert refused.value.code == "speed_busy"
    assert refused.value.retry_after_s > 0
    peer.add(b"3" * 16, order("machine 8"))
    with pytest.raises(Refused):
        peer.add(b"4" * 16, order("machine 9"))

    often = Peer(per_hour=1)
    ended = order()
    ended.taken = {(each, index) for each in Direction for index in range(2)}
    often.add(b"1" * 16, ended)
    with pytest.raises(Refused) as refused:
        often.add(b"2" * 16, order())
    assert refused.value.code == "speed_too_often"


def test_an_order_ends_when_it_was_served_given_up_or_is_old() -> None:
    now_s = time.monotonic()
    fresh = order()
    fresh.expires_s = now_s + 30
    assert fresh.is_live(now_s)
    assert not fresh.is_live(now_s + 31)
    fresh.taken = {(Direction.DOWN, 0)}
    fresh.idle_since_s = now_s
    assert fresh.is_live(now_s + 1), "up follows down"
    assert not fresh.is_live(now_s + 9), "its machine has given it up"
    fresh.active = 1
    assert fresh.is_live(now_s + 99)


def test_whoever_knows_the_secret_brings_an_order_and_nobody_a_second_one_meanwhile() -> None:
    with serving(Peer(SECRET)) as port, asked(port, stream.shared_key(SECRET, ORDER)) as (said, _):
        assert said is Verdict.GO
        other = b"p" * 16
        assert verdict(port, stream.shared_key(SECRET, other), order=other) is Verdict.BUSY
        assert verdict(port, stream.shared_key(b"another secret", other), order=other) is Verdict.UNKNOWN


def test_no_order_is_larger_than_the_peer_allows() -> None:
    asked = order(streams=10_000, seconds=10_000, bytes_max=10**15)
    Peer().add(ORDER, asked)

    assert (asked.streams, asked.seconds, asked.bytes_max) == (16, 20, 32 * 10**9)


def test_the_child_of_a_marketplace_listens_takes_orders_and_ends_with_its_stdin() -> None:
    argv = [sys.executable, "-I", "-m", "kaalia.speed.peer"]
    sizes = {"owner": "machine 7", "key": KEY.hex(), "streams": 2, "seconds": 2, "bytes_max": 2_000_000}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout

        def request(what: dict[str, object]) -> dict[str, object]:
            assert child.stdin
            assert child.stdout
            child.stdin.write(json.dumps(what) + "\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())  # type: ignore[no-any-return]

        port = int(str(request({"listen": [HERE, 0]})["port"]))
        assert "in use" in str(request({"listen": [HERE, port]})["error"]).lower()
        assert request({**sizes, "order": ORDER.hex()})["streams"] == 2
        assert request({**sizes, "order": "aa" * 16})["refused"] == "speed_busy"
        assert verdict(port) is Verdict.GO
        child.stdin.close()
        assert child.wait(10) == 0
