import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kaalia.client import LocalClient, LocalError
from kaalia.errors import UnreachableError

Serve = Callable[[bytes], LocalClient]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A socket that answers one request with these bytes, then goes."""
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> LocalClient:
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(tmp_path / "s"))
        door.listen(1)

        def run() -> None:
            with door:
                visitor, _ = door.accept()
                with visitor:
                    visitor.recv(65536)
                    visitor.sendall(answer)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return LocalClient(tmp_path / "s", timeout_s=5)

    yield start
    for thread in threads:
        thread.join()


def http(status: int, document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


@pytest.mark.parametrize(
    "answer",
    [
        http(200, {"data": {"version": "9"}}),
        http(200, {"other": 1}),
        http(200, []),
        http(500, {"error": "text"}),
        b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\n<ht>",
    ],
)
def test_an_answer_of_another_version_is_told_as_such(serve: Serve, answer: bytes) -> None:
    with pytest.raises(LocalError) as caught:
        serve(answer).status()

    assert caught.value.code == "answer_not_understood"
    assert caught.value.problem.remedy


def test_a_refusal_comes_in_the_daemons_words(serve: Serve) -> None:
    problem = {"code": "state_corrupt", "message": "cannot use it", "remedy": "restore it", "evidence": "malformed"}

    with pytest.raises(LocalError) as caught:
        serve(http(503, {"error": problem})).report()

    assert caught.value.code == "state_corrupt"
    assert (caught.value.problem.remedy, caught.value.problem.evidence) == ("restore it", "malformed")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{"])
def test_what_is_no_answer_counts_as_nobody_there(serve: Serve, answer: bytes) -> None:
    with pytest.raises(UnreachableError) as caught:
        serve(answer).contracts()

    assert caught.value.code == "daemon_not_running"


def test_a_socket_without_a_listener_counts_as_nobody_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "s"))

        with pytest.raises(UnreachableError):
            LocalClient(tmp_path / "s").status()
