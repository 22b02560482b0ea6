"""A small image registry (Distribution API v2) on loopback, which dockerd takes without TLS, with switchable faults."""

import asyncio
import base64
import gzip
import hashlib
import io
import json
import secrets
import tarfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aiohttp import web

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CHUNK_BYTES = 64 * 1024


class Mode(StrEnum):
    PLAIN = "plain"
    BASIC = "basic"
    """Every request needs the user name and password."""
    BEARER = "bearer"
    """The password buys a token, as on Docker Hub."""
    RATE_LIMITED = "rate_limited"
    SLOW = "slow"
    """Layers trickle: `chunk_wait_s` between pieces of 64 KiB."""
    STALLED = "stalled"
    """Layers begin, then nothing more comes."""
    SILENT = "silent"
    """The manifest request is never answered."""
    SILENT_PUSH = "silent_push"
    """What is pushed is never taken."""
    CUT_OFF = "cut_off"
    """The connection breaks in the middle of a layer."""


@dataclass(frozen=True, slots=True)
class _Blob:
    media_type: str
    content: bytes


@dataclass(slots=True)
class Registry:
    """`await start()`, `add` images, switch `mode` at any time; `authorizations` keeps what clients sent."""

    mode: Mode = Mode.PLAIN
    username: str = "renter"
    password: str = "correct-horse"
    chunk_wait_s: float = 0.05
    authorizations: list[str] = field(default_factory=list)
    layer_requests: int = 0
    page_tags: int = 2
    port: int = 0
    _blobs: dict[str, _Blob] = field(default_factory=dict)
    _tags: dict[tuple[str, str], str] = field(default_factory=dict)
    _tokens: set[str] = field(default_factory=set)
    _uploads: dict[str, bytearray] = field(default_factory=dict)
    _runner: web.AppRunner | None = None
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=256 * 1024**2)
        app.router.add_get("/token", self._token)
        app.router.add_get("/v2/", self._base)
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self._manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob)
        app.router.add_get("/v2/{name:.+}/tags/list", self._list)
        app.router.add_post("/v2/{name:.+}/blobs/uploads/", self._begin_upload)
        app.router.add_patch("/v2/{name:.+}/blobs/uploads/{upload}", self._upload)
        app.router.add_put("/v2/{name:.+}/blobs/uploads/{upload}", self._end_upload)
        app.router.add_put("/v2/{name:.+}/manifests/{reference}", self._take_manifest)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def add(self, name: str, tag: str, layers: list[bytes], config: Mapping[str, Any] | None = None) -> str:
        """Offer an image of uncompressed layer tars; returns the reference. `config`: Cmd, Env, ExposedPorts ..."""
        packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": dict(config or {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]}),
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
            "history": [{"created_by": "kaalia tests"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": self._keep(_CONFIG_TYPE, json.dumps(document).encode()),
            "layers": [self._keep(_LAYER_TYPE, layer) for layer in packed],
        }
        self._tags[name, tag] = self._keep(_MANIFEST_TYPE, json.dumps(manifest).encode())["digest"]
        return f"{self.address}/{name}:{tag}"

    def _keep(self, media_type: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self._blobs[digest] = _Blob(media_type, content)
        return {"mediaType": media_type, "size": len(content), "digest": digest}

    # Who may

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        if authorization:
            self.authorizations.append(authorization)
        if request.path == "/token":
            return await handler(request)
        if self.mode is Mode.RATE_LIMITED and "/manifests/" in request.path:
            return _refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
        if self.mode is Mode.BASIC and authorization != self._basic():
            return _refusal(
                401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="kaalia"'}
            )
        if self.mode is Mode.BEARER and authorization.removeprefix("Bearer ") not in self._tokens:
            challenge = f'Bearer realm="http://{self.address}/token",service="kaalia"'
            return _refusal(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        return await handler(request)

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    async def _token(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != self._basic():
            return _refusal(401, "UNAUTHORIZED", "incorrect username or password")
        token = secrets.token_urlsafe()
        self._tokens.add(token)
        return web.json_response({"token": token})

    # What there is

    async def _base(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        if self.mode is Mode.SILENT:
            await self._closing.wait()
        name, reference = request.match_info["name"], request.match_info["reference"]
        digest = self._tags.get((name, reference), reference)
        blob = self._blobs.get(digest)
        if blob is None:
            return _refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = {"Docker-Content-Digest": digest, "Content-Type": blob.media_type}
        return web.Response(body=blob.content, headers=headers)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """In pages of `page_tags`, with a link to the next one."""
        name, last = request.match_info["name"], request.query.get("last", "")
        known = sorted(tag for of, tag in self._tags if of == name)
        if not known:
            return _refusal(404, "NAME_UNKNOWN", "repository name not known to registry")
        page = [tag for tag in known if tag > last][: self.page_tags]
        is_more = bool(page) and page[-1] != known[-1]
        link = f'</v2/{name}/tags/list?n={self.page_tags}&last={page[-1]}>; rel="next"' if is_more else ""
        return web.json_response({"name": name, "tags": page}, headers={"Link": link} if link else {})

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        blob = self._blobs.get(request.match_info["digest"])
        if blob is None:
            return _refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if blob.media_type != _LAYER_TYPE:
            return web.Response(body=blob.content, content_type="application/octet-stream")
        if request.method == "HEAD":  # who pushes asks what is here already
            return web.Response(headers={"Content-Length": str(len(blob.content))})
        self.layer_requests += 1
        return await self._send_layer(request, blob.content)

    # What is pushed

    async def _begin_upload(self, request: web.Request) -> web.StreamResponse:
        if self.mode is Mode.SILENT_PUSH:
            await self._closing.wait()
        upload = secrets.token_hex(8)
        self._uploads[upload] = bytearray()
        return web.Response(status=202, headers=self._upload_headers(request.match_info["name"], upload))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        name, upload = request.match_info["name"], request.match_info["upload"]
        if self.mode is Mode.CUT_OFF and request.transport is not None:
            request.transport.abort()
        self._uploads[upload] += await request.read()
        return web.Response(status=202, headers=self._upload_headers(name, upload))

    async def _end_upload(self, request: web.Request) -> web.StreamResponse:
        content = bytes(self._uploads.pop(request.match_info["upload"])) + await request.read()
        digest = request.query["digest"]
        if _digest(content) != digest:
            return _refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        media = _LAYER_TYPE if content[:2] == b"\x1f\x8b" else _CONFIG_TYPE
        self._blobs[digest] = _Blob(media, content)
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    async def _take_manifest(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        digest = _digest(content)
        self._blobs[digest] = _Blob(request.content_type, content)
        self._tags[request.match_info["name"], request.match_info["reference"]] = digest
        return web.Response(status=201, headers={"Docker-Content-Digest": digest})

    def _upload_headers(self, name: str, upload: str) -> dict[str, str]:
        size = max(len(self._uploads[upload]) - 1, 0)
        return {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Docker-Upload-UUID": upload, "Range": f"0-{size}"}

    def pushed(self, name: str, tag: str) -> tuple[dict[str, Any], list[bytes]]:
        """Configuration and uncompressed layers of what was pushed."""
        manifest = json.loads(self._blobs[self._tags[name, tag]].content)
        layers = [gzip.decompress(self._blobs[one["digest"]].content) for one in manifest["layers"]]
        return json.loads(self._blobs[manifest["config"]["digest"]].content), layers

    async def _send_layer(self, request: web.Request, content: bytes) -> web.StreamResponse:
        first = request.http_range.start or 0
        headers = {"Accept-Ranges": "bytes", "Content-Length": str(len(content) - first)}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if first else 200, headers=headers)
        await response.prepare(request)
        content = content[first:]
        for offset in range(0, len(content), _CHUNK_BYTES):
            if offset >= len(content) // 2:
                if self.mode is Mode.CUT_OFF and request.transport is not None:
                    request.transport.abort()
                    return response
                if self.mode is Mode.STALLED:
                    await self._closing.wait()
            if self.mode is Mode.SLOW:
                await asyncio.sleep(self.chunk_wait_s)
            try:
                await response.write(content[offset : offset + _CHUNK_BYTES])
            except ConnectionResetError:  # who pulled gave up
                break
        return response


@contextmanager
def a_registry() -> Iterator[Registry]:
    """Answers from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    registry = Registry()
    asyncio.run_coroutine_threadsafe(registry.start(), loop).result(10)
    try:
        yield registry
    finally:
        asyncio.run_coroutine_threadsafe(registry.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def random_layer(size_bytes: int, path: str = "data/noise") -> bytes:
    """A layer that does not compress, so that its size on the wire is known."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(path)
        entry.size = size_bytes
        tar.addfile(entry, io.BytesIO(secrets.token_bytes(size_bytes)))
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=headers)
