"""What is asked of a Jupyter, by real TLS: by its token alone it is let in, and by its own certificate it is known."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from kaalia.errors import HostError
from kaalia.selftest import notebook
from kaalia.selftest.notebook import Door
from kaalia.wire import authority, signature

KEY = signature.tls_key(signature.generate_key(), 51)
TOKEN = "0123456789abcdef"
STATUS = {"started": "2026-01-01T00:00:00Z", "kernels": 0}


@dataclass
class Answers:
    """`wanted`: what a good one wants to see. `begins`: how many are answered 503 before it is there."""

    wanted: str | None = f"token {TOKEN}"
    body: object = None
    begins: int = 0
    asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked <= self.begins:
            return web.Response(status=503)
        if self.wanted is not None and request.headers.get("Authorization") != self.wanted:
            return web.json_response({"message": "Forbidden"}, status=403)
        reply = web.json_response(STATUS if self.body is None else self.body)
        reply.set_cookie("username-127-0-0-1-8080", "let in")
        return reply


@asynccontextmanager
async def served(
    folder: Path, handler: Callable[[web.Request], Awaitable[web.Response]], name: str = "127.0.0.1"
) -> AsyncIterator[Door]:
    """A door to it, known by a certificate for `name`."""
    now = datetime.now(UTC)
    signer = authority.made("localhost", (), now)
    certificate = authority.signed(signer, 51, KEY.public_key(), (name,), now, timedelta(hours=1))
    (folder / "chain.pem").write_text(certificate.chain)
    (folder / "key.pem").write_bytes(signature.tls_private_pem(KEY))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    app = web.Application()
    app.router.add_get("/api/status", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield Door("127.0.0.1", runner.addresses[0][1], authority.pem(signer[0]), TOKEN)
    finally:
        await runner.cleanup()


async def test_who_brings_the_token_is_let_in_and_nobody_else_as_soon_as_it_is_there(tmp_path: Path) -> None:
    answers = Answers(begins=2)
    async with served(tmp_path, answers.answer) as door:
        await notebook.ask(door)

    assert answers.asked == 5, "two too early, one with the token, one without, one with another"


@pytest.mark.parametrize(
    ("answers", "name", "words"),
    [
        (Answers(wanted=None), "127.0.0.1", "does not refuse who brings no token"),
        (Answers(wanted="token another"), "127.0.0.1", "refuses its own token"),
        (Answers(), "203.0.113.7", "a certificate that is not its own"),
        (Answers(body={"hello": "world"}), "127.0.0.1", "does not answer within"),
        (Answers(body=7), "127.0.0.1", "does not answer within"),
    ],
)
async def test_what_is_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers, name: str, words: str
) -> None:
    monkeypatch.setattr(notebook, "COMES_UP_S", 2.0)
    async with served(tmp_path, answers.answer, name) as door:
        with pytest.raises(HostError, match=words) as caught:
            await notebook.ask(door)

    assert caught.value.code == "selftest_jupyter_failed"
    assert caught.value.problem.remedy
    assert TOKEN not in str(caught.value.problem)


async def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    other = authority.pem(authority.made("localhost", (), datetime.now(UTC))[0])
    async with served(tmp_path, Answers().answer) as door:
        with pytest.raises(HostError, match="a certificate that is not its own"):
            await notebook.ask(Door(door.address, door.port, other, door.token))


async def test_nobody_answers_and_it_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "COMES_UP_S", 1.0)
    async with served(tmp_path, Answers().answer) as door:
        pass

    with pytest.raises(HostError, match="does not answer within 1 s"):
        await notebook.ask(door)
