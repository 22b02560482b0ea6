"""Reaches the prober that the configuration names: the marketplace by signed requests, another one as anybody may.

Always by IPv4, which is what renters' ports are of. A prober that stands alone may be asked over plain HTTP; then
whoever is on the way reads the nonce, may ask the ports himself, and counts as the prober: see docs/ports.md.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from kaalia.clock import Clock
from kaalia.errors import KaaliaError, MarketplaceError, UnreachableError
from kaalia.store import enrolment
from kaalia.store.database import Database
from kaalia.sync.client import MarketplaceClient
from kaalia.sync.enroll import load_key
from kaalia.wire import document
from kaalia.wire.probe import PATH_PROBE, ProbeReply, ProbeRequest

REPLY_MAX_BYTES = 1024 * 1024
TIMEOUT_S = 30.0

Ask = Callable[[ProbeRequest], Awaitable[ProbeReply]]


class ProberLink:
    """`url`: of a prober; None: the marketplace's, once this machine is enrolled.

    `by_ipv6`: whether renters come by that. By which address the prober sees this machine matters.
    """

    def __init__(
        self,
        url: str | None,
        database: Database,
        state_dir: Path,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        by_ipv6: Callable[[], bool] = bool,
    ) -> None:
        self._by_ipv6 = by_ipv6
        self._url = url
        self._database = database
        self._state_dir = state_dir
        self._clock = clock
        self._tls = tls

    async def name(self) -> str | None:
        """The prober's URL; None: there is no marketplace yet."""
        if self._url is not None:
            return self._url
        member = await self._database.read(enrolment.get)
        return member.url if member else None

    async def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if await asyncio.to_thread(self._by_ipv6) else socket.AF_INET

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ask]:
        """What asks it; raises MarketplaceError or UnreachableError. Connections end with the context."""
        if self._url is not None:
            async with _session(await self._family()) as session:
                yield _asker(session, self._url)
            return
        member = await self._database.read(enrolment.get)
        if member is None:
            raise UnreachableError("not_enrolled", "cannot probe the ports: this machine is not enrolled")
        key = await asyncio.to_thread(load_key, self._state_dir)
        client = MarketplaceClient(
            member.url, member.machine_id, key, self._clock, self._tls, family=await self._family()
        )
        try:
            yield client.probe
        finally:
            await client.close()


def _session(family: socket.AddressFamily) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(family=family, limit=2)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    )


def _asker(session: aiohttp.ClientSession, url: str) -> Ask:
    async def ask(request: ProbeRequest) -> ProbeReply:
        body = document.encode(request).encode()
        try:
            async with session.post(
                url + PATH_PROBE, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as reply:
                raw = await reply.content.read(REPLY_MAX_BYTES + 1)
                while len(raw) <= REPLY_MAX_BYTES and (more := await reply.content.read(REPLY_MAX_BYTES)):
                    raw += more
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise UnreachableError(
                "prober_unreachable",
                f"cannot reach the prober {url}: {str(error) or type(error).__name__}",
                remedy="check probe.url, and that `kaalia probe serve` runs there and its port is open",
            ) from error
        if reply.status != 200:
            raise _refusal(url, reply, raw)
        try:
            return document.decode(ProbeReply, raw)
        except KaaliaError as error:
            raise MarketplaceError(
                "prober_not_understood",
                f"cannot understand the prober {url}: {error.problem.message}",
                remedy="check that probe.url is a prober's; give both machines the same version of kaalia",
            ) from error

    return ask


def _refusal(url: str, reply: aiohttp.ClientResponse, raw: bytes) -> MarketplaceError:
    wait = reply.headers.get("Retry-After", "")
    wait_s = min(float(wait), 3600.0) if wait.isdecimal() else None
    try:
        told = json.loads(raw)
        code, message = str(told["error"])[:80], str(told["msg"])[:1000]
    except (ValueError, KeyError, TypeError):
        code, message = "prober_refused", f"HTTP status {reply.status}"
    kind = UnreachableError if reply.status >= 500 or reply.status == 429 else MarketplaceError
    return kind(code, f"cannot probe by {url}: it says: {message}", status=reply.status, retry_after_s=wait_s)
