"""A marketplace in this process: a context on a folder, and the application on a loopback port."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import aiohttp
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event

from kaalia.clock import Clock
from kaalia.marketplace import accounts, app, auth, listings, liveness, machines
from kaalia.marketplace.context import Context, Settings
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.engine import open_engine, sqlite_url
from kaalia.model.machine import MachineReport
from tests.support.clock import FakeClock
from tests.support.machines import machine_report
from tests.support.vastai import VastAI

url_of: Callable[[Path], str] = sqlite_url
"""The database of a folder: SQLite's there, or what the fixture `database` puts in its place."""


@asynccontextmanager
async def open_context(folder: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Context]:
    """A context with the database of `folder`, at first an empty one, and a clock that stands still."""
    engine = await open_engine(url_of(folder))
    try:
        yield Context(
            engine=engine,
            clock=clock or FakeClock(),
            settings=Settings(**{"public_url": "http://127.0.0.1:1", **settings}),
            signing_key=Ed25519PrivateKey.generate(),
            epoch=1,
        )
    finally:
        await engine.dispose()


@asynccontextmanager
async def serve(context: Context) -> AsyncIterator[str]:
    """The application on a loopback port; yields its base URL."""
    server = TestServer(app.build(context), host="127.0.0.1")
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]
    reason: str | None = None
    """Of the status line."""


class Api:
    """Calls one served marketplace with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None = None) -> None:
        self._session = session
        self.url = url
        self.key = key

    def using(self, key: str | None) -> "Api":
        return Api(self._session, self.url, key)

    async def call(self, method: str, path: str, body: Any = None, data: bytes | None = None) -> Answer:
        """`path` as sent (it may hold doubled slashes). `data` overrides `body` with raw bytes."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with self._session.request(
            method, self.url + path, json=body, data=data and io.BytesIO(data), headers=headers, allow_redirects=False
        ) as reply:
            text = await reply.text()
            is_json = reply.headers.get("Content-Type") == "application/json"
            decoded = await reply.json() if is_json else text
            return Answer(reply.status, decoded, dict(reply.headers), reply.reason)


@dataclass(frozen=True)
class Market:
    """A served marketplace with one host and one renter."""

    context: Context
    clock: FakeClock
    url: str
    host: Api
    renter: Api
    anyone: Api
    folder: Path

    def client(self, api: Api) -> "Client":
        return Client(self.url, api, self.folder / "home")

    async def list_machine(self, report: MachineReport | None = None, **terms: Any) -> int:
        """A machine of the host, listed at 0.4 $/h and GPU unless told otherwise."""
        machine_id = await add_machine(self.context, report)
        body = {"machine": machine_id, "price_gpu": 0.4, **terms}
        answer = await self.host.call("PUT", "/api/v0/machines/create_asks/", body)
        assert answer.status == 200, answer.body
        return machine_id

    async def search(self, **body: Any) -> list[dict[str, Any]]:
        answer = await self.renter.call("POST", "/api/v0/bundles/", body)
        assert answer.status == 200, answer.body
        offers: list[dict[str, Any]] = answer.body["offers"]
        return offers


class Client:
    """The real `vastai` program of one user, run beside the server's loop."""

    def __init__(self, url: str, api: Api, home: Path) -> None:
        self._program = VastAI(url, api.key or "", home)

    async def run(self, *args: str, stdin: str | None = None) -> CompletedProcess[str]:
        return await asyncio.to_thread(self._program.run, *args, stdin=stdin)

    async def python(self, text: str) -> CompletedProcess[str]:
        """Run a script with the SDK at hand."""
        script = self._program.home.with_suffix(".py")
        script.write_text(text)
        return await asyncio.to_thread(self._program.python, script)

    async def json(self, *args: str) -> Any:
        return await asyncio.to_thread(self._program.json, *args)


@asynccontextmanager
async def open_market(folder: Path, **settings: Any) -> AsyncIterator[Market]:
    clock = FakeClock()
    async with open_context(folder, clock, **settings) as context, serve(context) as url:
        host_key = await accounts.add_user(context.engine, "host", True, clock.now())
        renter_key = await accounts.add_user(context.engine, "renter", False, clock.now())
        async with aiohttp.ClientSession() as session:
            anyone = Api(session, url)
            yield Market(context, clock, url, anyone.using(host_key), anyone.using(renter_key), anyone, folder)


async def add_machine(
    context: Context, report: MachineReport | None = None, owner: str = "host", reported: bool = True
) -> int:
    """An enrolled machine of `owner` that has reported just now."""
    now = context.clock.now()
    async with context.engine.begin() as tx:
        user_id = await tx.scalar(sa.select(tables.users.c.id).where(tables.users.c.username == owner))
        machine_id: int = await tx.scalar(
            sa.insert(tables.machines)
            .values(user_id=user_id, public_key=auth.new_key(), fingerprint="f", enrolled_at=now.timestamp())
            .returning(tables.machines.c.id)
        )
        if reported:
            await machines.put_report(tx, machine_id, report or machine_report())
            await liveness.seen(tx, machine_id, now)
            await listings.refresh_asks(tx, machine_id, now)
    return machine_id


@asynccontextmanager
async def unanswered(market: Market, method: str, path: str, body: Any) -> AsyncIterator[None]:
    """A request of the renter's whose caller goes away before it is answered; on entry it may still be at work."""
    # As in service: the test server of aiohttp would give up a request whose caller is gone.
    runner = web.AppRunner(app.build(market.context))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        data = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {market.renter.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        async with market.context.engine.begin():  # the request waits for this one, and its caller does not
            writer.write(head.encode() + data)
            await asyncio.sleep(0.2)
            writer.close()
            await asyncio.sleep(0.2)
        yield
    finally:
        await runner.cleanup()


@contextmanager
def statements(context: Context) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    engine = context.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
