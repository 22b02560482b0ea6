"""The program of the machine's own test container, on this machine instead of in a container."""

import errno
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaalia.contracts import canary_report
from kaalia.host import knock
from tests.support.canaries import compile_program
from tests.support.stack import free_port

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("canary"))


@contextmanager
def running(program: Path, *words: str) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    port = free_port()
    made = subprocess.Popen([program, KEY, str(port), *words], stdout=subprocess.PIPE, text=True)
    try:
        yield port, made
    finally:
        made.terminate()
        made.wait(10)
        assert made.stdout is not None
        made.stdout.close()


def said(made: "subprocess.Popen[str]") -> str:
    assert made.stdout is not None
    lines = []
    for line in made.stdout:
        lines.append(line)
        if line == "done\n":
            break
    return "".join(lines)


async def test_it_answers_with_its_key_by_tcp_and_udp(program: Path) -> None:
    with running(program, "0", "-", "-", "0") as (port, made):
        said(made)

        assert await knock.tcp("127.0.0.1", port, b"one", 5) == f"{KEY}one".encode()
        assert await knock.udp("127.0.0.1", port, b"two", 5) == f"{KEY}two".encode()
        assert await knock.tcp("127.0.0.1", port, b"three", 5) == f"{KEY}three".encode()


async def test_a_caller_who_says_nothing_holds_up_nobody_for_long(program: Path) -> None:
    with running(program, "0", "-", "-", "0") as (port, made):
        said(made)
        with socket.create_connection(("127.0.0.1", port)):
            assert await knock.tcp("127.0.0.1", port, b"next", 10) == f"{KEY}next".encode()


def test_it_tells_what_it_reaches_outside(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        with running(program, "0", "localhost", "127.0.0.1", str(port)) as (_, made):
            reached = canary_report.read(said(made))
    with running(program, "0", "-", "127.0.0.1", str(port)) as (_, made):
        refused = canary_report.read(said(made))

    assert (reached.is_done, reached.name_problem, reached.connect_problem) == (True, 0, 0)
    assert (refused.name_problem, refused.connect_problem) == (None, errno.ECONNREFUSED)


def test_it_ends_at_once_when_it_is_asked_to(program: Path) -> None:
    with running(program, "0", "-", "-", "0") as (_, made):
        said(made)
        made.terminate()

        assert made.wait(2) == 0
