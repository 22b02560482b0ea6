"""Speaks to one marketplace: a method per endpoint of wire/protocol, every request signed.

Refuses plain HTTP other than to loopback, redirects, and answers larger than 16 MiB. Neither bodies nor
headers are ever logged or quoted: they may hold tokens and passwords.
"""

import io
import ipaddress
import json
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from aiohttp import AddrInfoType
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from kaalia.clock import Clock
from kaalia.errors import ConfigError, KaaliaError, MarketplaceError, UnauthorizedError, UnreachableError
from kaalia.model.certificate import Certificate
from kaalia.model.copying import CloudLogin
from kaalia.sync.trust import system_context
from kaalia.units import MIB
from kaalia.wire import document, signature
from kaalia.wire.probe import PATH_MACHINE_PROBE, ProbeReply, ProbeRequest
from kaalia.wire.protocol import (
    PATH_CERTIFICATE,
    PATH_DESIRED,
    PATH_ENROLL,
    PATH_REGISTRY_LOGIN,
    PATH_STATUS,
    PATH_TASK_CLOUD,
    PATH_TASK_LOGIN,
    PATH_TASK_RESULT,
    CertificateRequest,
    EnrolReply,
    EnrolRequest,
    Envelope,
    RegistryLoginReply,
    StatusPost,
    StatusReply,
    TaskResult,
)
from kaalia.wire.speed import PATH_MACHINE_SPEED, SpeedGrant, SpeedRequest

T = TypeVar("T")

REPLY_MAX_BYTES = 16 * MIB
CONNECT_TIMEOUT_S = 10.0
REPLY_TIMEOUT_S = 20.0
"""From sending to the end of the answer; a long-poll gets its own wait on top."""
KEEPALIVE_S = 65.0
"""Longer than a heartbeat's pause, so that one TLS handshake serves for hours."""
_PROBES = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
)
"""A network that swallows packets ends no connection: without these a long-poll would wait out its 70 s in vain.

Silence of 10 s is probed, and 20 s without an answer of the peer's kernel end the connection (tcp(7)).
"""
_TRY_AGAIN = frozenset({408, 425, 429})
_TRY_AGAIN_CODES = frozenset({"nonce_replayed", "clock_skew"})
"""aiohttp itself sends a request again when a kept connection turns out to be closed; the next one has a new nonce.

The refusal of a wrong clock tells the right time: the next request may go by it.
"""
_RETRY_AFTER_MAX_S = 3600.0


HeardTime = Callable[[datetime], Awaitable[None]]
"""Gets the time that the marketplace tells: a hint, since answers are not signed."""


class MarketplaceClient:
    """One session: the long-poll holds one connection, everything else shares another. Close it in the end."""

    def __init__(
        self,
        url: str,
        machine_id: int,
        key: Ed25519PrivateKey,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        heard: HeardTime | None = None,
        family: socket.AddressFamily = socket.AF_UNSPEC,
    ) -> None:
        """`family`: AF_INET when it matters from which address the marketplace sees this machine come."""
        self._base = check_url(url)
        self._machine_id = machine_id
        self._key = key
        self._clock = clock
        self._tls = tls
        self._heard = heard
        self._family = family
        self._session: aiohttp.ClientSession | None = None

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        return _decoded(EnrolReply, await self._send("POST", PATH_ENROLL, request))

    async def desired(self, epoch: int, revision: int, wait_s: float) -> Envelope | None:
        """The signed desired state, None when there was no news for `wait_s` seconds."""
        path = f"{self._path(PATH_DESIRED)}?epoch={epoch}&revision={revision}&wait={wait_s:.0f}"
        raw = await self._send("GET", path, timeout_s=wait_s + REPLY_TIMEOUT_S)
        return _decoded(Envelope, raw) if raw else None

    async def post_status(self, post: StatusPost) -> StatusReply:
        reply = _decoded(StatusReply, await self._send("POST", self._path(PATH_STATUS), post))
        await self._hear(reply.server_time)
        return reply

    async def put_result(self, task_id: str, result: TaskResult) -> None:
        await self._send("PUT", self._path(PATH_TASK_RESULT, task_id=quote(task_id, safe="")), result)

    async def task_login(self, task_id: str) -> RegistryLoginReply:
        """Given once."""
        path = self._path(PATH_TASK_LOGIN, task_id=quote(task_id, safe=""))
        return _decoded(RegistryLoginReply, await self._send("POST", path))

    async def task_cloud(self, task_id: str) -> CloudLogin:
        """For a copy that this machine was asked for, until it has answered."""
        path = self._path(PATH_TASK_CLOUD, task_id=quote(task_id, safe=""))
        return _decoded(CloudLogin, await self._send("POST", path))

    async def registry_login(self, contract_id: int) -> RegistryLoginReply:
        raw = await self._send("POST", self._path(PATH_REGISTRY_LOGIN, contract_id=contract_id))
        return _decoded(RegistryLoginReply, raw)

    async def certificate(self, contract_id: int, public_key: str) -> Certificate:
        path = self._path(PATH_CERTIFICATE, contract_id=contract_id)
        certificate = _decoded(Certificate, await self._send("POST", path, CertificateRequest(public_key)))
        if certificate.contract_id != contract_id or not certificate.chain.startswith("-----BEGIN CERTIFICATE-----"):
            raise MarketplaceError("reply_invalid", "cannot understand the marketplace's answer: it is no certificate")
        return certificate

    async def probe(self, request: ProbeRequest) -> ProbeReply:
        return _decoded(ProbeReply, await self._send("POST", self._path(PATH_MACHINE_PROBE), request))

    async def speed(self, request: SpeedRequest) -> SpeedGrant:
        return _decoded(SpeedGrant, await self._send("POST", self._path(PATH_MACHINE_SPEED), request))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _path(self, template: str, **values: Any) -> str:
        return template.format(machine_id=self._machine_id, **values)

    async def _send(self, method: str, path: str, body: object = None, timeout_s: float = REPLY_TIMEOUT_S) -> bytes:
        """One signed request. Raises UnreachableError, UnauthorizedError or MarketplaceError."""
        url = URL(self._base + path, encoded=True)
        data = b"" if body is None else document.encode(body).encode()
        created_at = self._clock.now()
        headers = signature.sign_request(
            self._key, method, url.raw_path_qs, data, created_at, secrets.token_urlsafe(16)
        )
        if data:
            headers["Content-Type"] = "application/json"
        try:
            async with self._opened().request(
                method,
                url,
                data=io.BytesIO(data) if len(data) > MIB else data or None,  # aiohttp warns of larger bytes
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            ) as reply:
                raw = await _read_limited(reply)
        except aiohttp.ClientConnectorCertificateError as error:
            raise UnreachableError(
                "tls_untrusted",
                f"cannot trust {self._base}: {error.certificate_error}",
                remedy="check the URL and the clock; a private authority belongs into the system's trust store",
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise UnreachableError(
                "marketplace_unreachable",
                f"cannot reach {self._base}: {str(error) or type(error).__name__}",
                remedy="check the network of this machine; running workloads go on meanwhile",
            ) from error
        if reply.status not in {200, 204}:
            await self._hear(_skewed_from(raw))
            raise _refusal(self._base, reply, raw)
        return raw

    async def _hear(self, server_at: datetime | None) -> None:
        if self._heard is not None and server_at is not None:
            await self._heard(server_at)

    def _trust(self) -> ssl.SSLContext | bool:
        return self._tls or (system_context() if self._base.startswith("https:") else True)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                keepalive_timeout=KEEPALIVE_S,
                limit=16,
                ssl=self._trust(),
                socket_factory=_probed,
                family=self._family,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _probed(address: AddrInfoType) -> socket.socket:
    """A socket that notices when its peer is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _PROBES:
        made.setsockopt(level, option, value)
    return made


def check_url(url: str) -> str:
    """The base URL without a last slash. Raises ConfigError `url_invalid` or `tls_required`."""
    try:
        parsed = URL(url)
        host = parsed.host or ""
    except ValueError:
        parsed, host = URL(), ""
    if parsed.scheme not in {"http", "https"} or not host or parsed.user or parsed.query_string or parsed.fragment:
        raise ConfigError(
            "url_invalid",
            "cannot use the marketplace's URL: it must be https://HOST[:PORT][/PATH] without user, query or fragment",
            remedy="copy it from the marketplace's pages",
        )
    if parsed.scheme == "http" and not _is_loopback(host):
        raise ConfigError(
            "tls_required",
            f"cannot use {parsed.scheme}://{host}: without TLS anyone on the way reads tokens and passwords",
            remedy=f"use https://{host}; plain http is for loopback only",
        )
    return str(parsed).rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _read_limited(reply: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for chunk in reply.content.iter_chunked(64 * 1024):
        parts.append(chunk)
        size += len(chunk)
        if size > REPLY_MAX_BYTES:
            reply.close()
            raise MarketplaceError(
                "reply_too_large",
                f"cannot read the marketplace's answer: it is larger than {REPLY_MAX_BYTES} bytes",
                status=reply.status,
            )
    return b"".join(parts)


def _decoded(kind: type[T], raw: bytes) -> T:
    try:
        return document.decode(kind, raw)
    except KaaliaError as error:
        raise MarketplaceError(
            "reply_invalid",
            f"cannot understand the marketplace's answer: {error.problem.message}",
            status=200,
            remedy="check that the URL is that of a kaalia marketplace; update the older side",
        ) from error


def _refusal(base: str, reply: aiohttp.ClientResponse, raw: bytes) -> MarketplaceError:
    status = reply.status
    if 300 <= status < 400:
        return MarketplaceError(
            "redirect_refused",
            f"cannot use {base}: it answers with a redirect ({status}), and signed requests follow none",
            status=status,
            remedy="enrol with the URL that the marketplace names",
        )
    code, message = _told(raw, status)
    sentence = f"cannot go on: the marketplace says: {message}"
    if status in {401, 403} and code not in _TRY_AGAIN_CODES:
        return UnauthorizedError(code, sentence, status=status)
    if status >= 500 or status in _TRY_AGAIN or code in _TRY_AGAIN_CODES:
        return UnreachableError(code, sentence, status=status, retry_after_s=_retry_after_s(reply))
    return MarketplaceError(code, sentence, status=status)


def _told(raw: bytes, status: int) -> tuple[str, str]:
    """Code and sentence of a refusal's body; a proxy's page has neither."""
    try:
        body = json.loads(raw)
        return str(body["error"])[:80], str(body["msg"])[:1000]
    except (ValueError, KeyError, TypeError):
        return "marketplace_refused", f"HTTP status {status}"


def _skewed_from(raw: bytes) -> datetime | None:
    """The marketplace's time in a `clock_skew` refusal: a machine that is wrong must have a way to learn it."""
    try:
        body = json.loads(raw)
        told = datetime.fromisoformat(body["server_time"]) if body["error"] == "clock_skew" else None
    except (ValueError, KeyError, TypeError):
        return None
    return told if told is not None and told.tzinfo is not None else None


def _retry_after_s(reply: aiohttp.ClientResponse) -> float | None:
    text = reply.headers.get("Retry-After", "")
    return min(float(text), _RETRY_AFTER_MAX_S) if text.isdecimal() else None
