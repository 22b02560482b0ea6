"""A small store that speaks S3 and takes none but well signed requests (Signature Version 4), kept in memory."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PIECE_BYTES = 64 * 1024
_PRESIGNED, _SIGNATURE = "X-Amz-Credential", "X-Amz-Signature"


@dataclass(slots=True)
class Stored:
    content: bytes
    headers: dict[str, str]
    at: datetime


@dataclass(slots=True)
class ObjectStore:
    """`objects`: by "bucket/key". `piece_wait_s`: between pieces of 64 KiB of what is read, so that it trickles."""

    key_id: str = "AKIAKAALIATESTS"
    secret: str = "s3cret-of-the-renter/0123456789abcdef"
    buckets: set[str] = field(default_factory=lambda: {"bucket"})
    objects: dict[str, Stored] = field(default_factory=dict)
    piece_wait_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    refused: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    async def start(self, address: str) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=512 * 1024**2)
        app.router.add_get("/{bucket}{slash:/?}", self._list)
        app.router.add_get("/{bucket}/{key:.+}", self._get)  # HEAD too
        app.router.add_put("/{bucket}/{key:.+}", self._put)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def put(self, name: str, content: bytes) -> None:
        self.objects[name] = Stored(content, {}, datetime.now(UTC))

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        known, told, expected = self._signatures(request)
        if known != self.key_id:
            self.refused += 1
            return _error(403, "InvalidAccessKeyId")
        if not hmac.compare_digest(told, expected):
            self.refused += 1
            return _error(403, "SignatureDoesNotMatch")
        if request.match_info.get("bucket") not in self.buckets:
            return _error(404, "NoSuchBucket")
        return await handler(request)

    def _signatures(self, request: web.Request) -> tuple[str, str, str]:
        """Whose it is, the signature that came, and the one that would be right."""
        query = [(name, value) for name, value in request.query.items() if name != _SIGNATURE]
        if _PRESIGNED in request.query:
            found = request.query
            credential, signed, told = found[_PRESIGNED], found["X-Amz-SignedHeaders"], found[_SIGNATURE]
            at, payload = found["X-Amz-Date"], "UNSIGNED-PAYLOAD"
        else:
            words = request.headers.get("Authorization", "").removeprefix("AWS4-HMAC-SHA256 ").split(",")
            parts = dict(word.strip().partition("=")[::2] for word in words)
            credential, signed, told = (parts.get(one, "") for one in ("Credential", "SignedHeaders", "Signature"))
            at, payload = request.headers.get("X-Amz-Date", ""), request.headers.get("X-Amz-Content-Sha256", "")
        key_id, _, scope = credential.partition("/")
        canonical = "\n".join(
            (
                request.method,
                request.rel_url.raw_path,
                "&".join(sorted(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)),
                *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed.split(";")),
                "",
                signed,
                payload,
            )
        )
        text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key_id, told, hmac.digest(key, text.encode(), "sha256").hex()

    async def _list(self, request: web.Request) -> web.Response:
        bucket, prefix = request.match_info["bucket"], request.query.get("prefix", "")
        delimiter, rows, folders = request.query.get("delimiter", ""), [], set()
        for name, stored in sorted(self.objects.items()):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            at = stored.at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            tag = hashlib.md5(stored.content, usedforsecurity=False).hexdigest()
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified><ETag>&quot;{tag}&quot;</ETag>"
                f"<Size>{len(stored.content)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        text = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>1000</MaxKeys>"
            f"<IsTruncated>false</IsTruncated>{''.join(rows)}{common}</ListBucketResult>"
        )
        return web.Response(text=text, content_type="application/xml")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        stored = self.objects.get(f"{request.match_info['bucket']}/{request.match_info['key']}")
        if stored is None:
            return _error(404, "NoSuchKey")
        answer = web.StreamResponse(headers={**stored.headers, **_headers(stored)})
        answer.content_length = len(stored.content)
        await answer.prepare(request)
        if request.method == "GET":
            for start in range(0, len(stored.content), _PIECE_BYTES):
                await answer.write(stored.content[start : start + _PIECE_BYTES])
                await asyncio.sleep(self.piece_wait_s)
        await answer.write_eof()
        return answer

    async def _put(self, request: web.Request) -> web.Response:
        content = bytearray()
        async for piece in request.content.iter_chunked(_PIECE_BYTES):
            content += piece
            await asyncio.sleep(self.piece_wait_s)
        kept = {name: value for name, value in request.headers.items() if name.lower().startswith("x-amz-meta-")}
        name = f"{request.match_info['bucket']}/{request.match_info['key']}"
        stored = self.objects[name] = Stored(bytes(content), kept, datetime.now(UTC))
        return web.Response(headers=_headers(stored))


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[ObjectStore]:
    store = ObjectStore()
    await store.start(address)
    try:
        yield store
    finally:
        await store.stop()


def _headers(stored: Stored) -> dict[str, str]:
    tag = hashlib.md5(stored.content, usedforsecurity=False).hexdigest()
    return {"ETag": f'"{tag}"', "Last-Modified": format_datetime(stored.at, usegmt=True)}


def _error(status: int, code: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
