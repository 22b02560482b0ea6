"""The self-test image's port is open to everybody: strangers who hold connections, or never come to an end."""

import contextlib
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from verification import door
from verification.progress import Progress

TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE
SOON_S = 5.0
"""Less than a connection that says nothing is waited for."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    progress = Progress(quiet_s=60)
    progress.say("here it is")
    made = door.open_door(progress, 0, tmp_path)
    serving = threading.Thread(target=made.serve_forever, args=(0.05,))
    serving.start()
    yield made
    made.shutdown()
    serving.join()
    made.server_close()


def knock(server: ThreadingHTTPServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), SOON_S)


def progress_of(server: ThreadingHTTPServer) -> str:
    url = f"https://127.0.0.1:{server.server_address[1]}/progress"
    with urllib.request.urlopen(url, timeout=SOON_S, context=TLS) as reply:
        return str(reply.read().decode())


def test_who_holds_connections_loses_the_oldest_and_the_client_comes_through(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "WAIT_S", 600.0)  # none goes for being silent
    with contextlib.ExitStack() as cleanup:
        strangers = [cleanup.enter_context(knock(server)) for _ in range(door.MOST_CONNECTIONS + 8)]

        gone = [stranger.recv(1) for stranger in strangers[:8]]
        told = progress_of(server)
        strangers[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            strangers[-1].recv(1)

    assert gone == [b""] * 8
    assert told == "here it is"


def test_connections_that_end_leave_no_thread_and_no_place_taken(server: ThreadingHTTPServer) -> None:
    before = threading.active_count()

    for _ in range(2 * door.MOST_CONNECTIONS):
        knock(server).close()

    assert progress_of(server) == "here it is"
    wait_until("their threads to end", lambda: threading.active_count() <= before, 20)


def test_a_request_without_an_end_is_not_waited_for(server: ThreadingHTTPServer) -> None:
    endless = b"GET /progress HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (one, b"x" * 60000) for one in range(40))
    is_cut_off = contextlib.suppress(ConnectionError, ssl.SSLError)  # while it still speaks; or it is answered
    with knock(server) as plain, TLS.wrap_socket(plain) as stranger, is_cut_off:
        stranger.sendall(endless)
        assert stranger.recv(12) in (b"HTTP/1.0 200", b"")

    assert progress_of(server) == "here it is"


def test_the_door_tells_nothing_of_what_it_is_made_with(server: ThreadingHTTPServer) -> None:
    url = f"https://127.0.0.1:{server.server_address[1]}/progress"
    with urllib.request.urlopen(url, timeout=SOON_S, context=TLS) as reply:
        assert reply.headers["Server"].strip() == "self-test"


def test_the_key_is_the_owner_s_alone_and_another_one_each_time(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        server = door.open_door(Progress(60), 0, folder)
        server.server_close()
        made.append((folder / "key.pem").read_text())
        assert (folder / "key.pem").stat().st_mode & 0o077 == 0

    assert made[0] != made[1]
