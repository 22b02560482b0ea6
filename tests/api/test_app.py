import asyncio
import http.client
import json
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from kaalia.api.context import Context
from kaalia.client import LocalClient, LocalError
from kaalia.errors import Problem, UnreachableError
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.api.conftest import Local, serving
from tests.support.clock import FakeClock


def exchange(path: Path, method: str, target: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("kaalia", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, target)
    reply = connection.getresponse()
    status, body = reply.status, json.loads(reply.read())
    connection.close()
    return status, body


async def test_the_socket_is_for_owner_and_group_only(local: Local) -> None:
    assert stat.S_IMODE(local.socket.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "no_such_path"),
        ("POST", "/v1/status", 405, "read_only"),
        ("DELETE", "/v1/contracts/51", 405, "read_only"),
        ("GET", "/v1/contracts/51", 404, "no_such_contract"),
        ("GET", "/v1/contracts/x", 404, "no_such_path"),
        ("GET", "/v1/report", 404, "no_report_yet"),
    ],
)
async def test_a_refusal_has_one_form(local: Local, method: str, path: str, status: int, code: str) -> None:
    got, body = await asyncio.to_thread(exchange, local.socket, method, path)

    assert got == status
    assert body["error"]["code"] == code
    assert body["error"]["message"].startswith("cannot ")
    assert body["error"]["remedy"]


async def test_in_safe_mode_the_status_answers_and_the_rest_says_why_not(tmp_path: Path) -> None:
    why = Problem("state_corrupt", "cannot use state.db: malformed", "restore a copy")
    clock = FakeClock()
    context = Context(Database(tmp_path / "state.db", Changes()), clock, clock.now(), safe_mode=why)
    client = LocalClient(tmp_path / "s")

    async with serving(tmp_path / "s", context):
        status = await asyncio.to_thread(client.status)
        refused = []
        for question in (client.contracts, client.ledger, client.disk):
            with pytest.raises(LocalError) as caught:
                await asyncio.to_thread(question)
            refused.append(caught.value.problem)

    assert status.safe_mode
    assert status.problems == (why,)
    assert refused == [why, why, why]


async def test_the_socket_goes_with_the_daemon(tmp_path: Path) -> None:
    clock = FakeClock()
    context = Context(Database(tmp_path / "state.db", Changes()), clock, clock.now())

    async with serving(tmp_path / "s", context):
        assert (tmp_path / "s").is_socket()

    assert not (tmp_path / "s").exists()
    with pytest.raises(UnreachableError) as caught:
        LocalClient(tmp_path / "s").status()
    assert caught.value.code == "daemon_not_running"
