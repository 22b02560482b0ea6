"""A machine that may lie: it signs with its own key and sends whatever a test wants."""

import io
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from kaalia.marketplace import accounts
from kaalia.wire import document, signature
from kaalia.wire.protocol import (
    EnrolReply,
    EnrolRequest,
    Envelope,
    Snapshot,
    StatusMessage,
    StatusPost,
    StatusReply,
)
from tests.marketplace.support import Market, open_market

_NONCES = itertools.count()


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"])


@dataclass
class Liar:
    """A machine's key and a session, to send whatever a test wants."""

    market: Market
    session: aiohttp.ClientSession
    key: Ed25519PrivateKey
    machine_id: int = 0

    def path(self, rest: str) -> str:
        return f"/kaalia/v1/machines/{self.machine_id}/{rest}"

    def sign(self, method: str, target: str, body: bytes = b"") -> dict[str, str]:
        now = self.market.clock.now()
        return signature.sign_request(self.key, method, target, body, now, f"nonce-{next(_NONCES)}")

    async def raw(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Reply:
        url = URL(self.market.url + target, encoded=True)
        async with self.session.request(method, url, headers=headers, data=io.BytesIO(body)) as reply:
            return Reply(reply.status, await reply.read())

    async def send(self, method: str, target: str, message: object = None) -> Reply:
        body = b"" if message is None else document.encode(message).encode()
        return await self.raw(method, target, self.sign(method, target, body), body)

    async def enrol(self, token: str) -> Reply:
        return await self.send("POST", "/kaalia/v1/enroll", self.enrolment(token))

    def enrolment(self, token: str) -> EnrolRequest:
        return EnrolRequest(token, signature.public_key_text(self.key), "f" * 64, "0.1")

    async def look(self, epoch: int = 0, revision: int = 0, wait: int = 0) -> Snapshot | None:
        reply = await self.send("GET", self.path(f"desired?epoch={epoch}&revision={revision}&wait={wait}"))
        assert reply.status in {200, 204}, reply
        if reply.status == 204:
            return None
        key = self.market.context.signing_key
        keys = {signature.key_id(key): signature.public_key_text(key)}
        return document.decode(Snapshot, signature.verify_document(document.decode(Envelope, reply.body), keys))

    async def post(self, *messages: StatusMessage, stream: str = "s", **changes: Any) -> StatusReply:
        post = replace(StatusPost(stream, 1, 1, self.market.clock.now(), messages), **changes)
        reply = await self.send("POST", self.path("status"), post)
        assert reply.status == 200, reply
        return document.decode(StatusReply, reply.body)


@asynccontextmanager
async def open_liar(folder: Path, **settings: Any) -> AsyncIterator[Liar]:
    """A market with one enrolled machine."""
    async with open_market(folder, **settings) as market, aiohttp.ClientSession() as session:
        liar = Liar(market, session, signature.generate_key())
        reply = await liar.enrol(await new_token(market))
        liar.machine_id = document.decode(EnrolReply, reply.body).machine_id
        yield liar


async def new_token(market: Market, owner: str = "host") -> str:
    return await accounts.new_enrol_token(market.context.engine, owner, market.clock.now())


async def other_machine(liar: Liar) -> Liar:
    other = Liar(liar.market, liar.session, signature.generate_key())
    other.machine_id = document.decode(EnrolReply, (await other.enrol(await new_token(liar.market))).body).machine_id
    return other
