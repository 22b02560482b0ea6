"""A Docker Engine that answers badly: a proxy on a unix socket between kaalia and dockerd, in a process of its own.

    with DockerProxy(folder / "proxy.sock", engine) as proxy:
        proxy.add(Fault("lost", "POST", r"/containers/[^/]+/start"))   # done by dockerd, but nobody hears of it

What no fault names passes, streams and hijacked connections too. kaalia reads the engine's PATH and limits from the
process behind the socket, so this one goes by the name of dockerd and has dockerd's environment.
"""

import asyncio
import ctypes
import json
import re
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.docker_engine import PrivateDocker
from tests.support.engine_api import EngineApi
from tests.support.waiting import wait_until

Kind = Literal["pass", "drop", "delay", "refuse", "cut", "lost"]
_PR_SET_NAME = 15
_HEAD_BYTES = 1 << 20
_CHUNK_BYTES = 65536
_REFUSAL = b'HTTP/1.1 500 Error\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{"message": "spoilt"}'
_VERSION = re.compile(r"^/v\d+\.\d+")


@dataclass
class Fault:
    """What befalls the next `times` requests of this method whose path (no version, no query) the pattern matches.

    pass: nothing, it is only counted. drop: dockerd never sees it. delay: dockerd sees it `delay_s` later.
    refuse: dockerd never sees it, and a server error is the answer.
    cut: the answer breaks off in its middle. lost: dockerd does it, and the answer never comes.
    """

    kind: Kind
    method: str
    pattern: str
    times: int = 1
    delay_s: float = 0.0
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        is_open = self.hits < self.times and method == self.method
        return is_open and re.fullmatch(self.pattern, path) is not None


class DockerProxy(EngineApi):
    """Starts with `with`, or `start` and `close`. Requests made through this object go through the proxy as well."""

    def __init__(self, path: Path, engine: PrivateDocker) -> None:
        super().__init__(path)
        self._engine = engine
        self._control = path.with_name(f"{path.name}.control")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "DockerProxy":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        module = "tests.support.docker_proxy"
        paths = [str(path) for path in (self.socket, self._control, self._engine.socket)]
        self._process = subprocess.Popen([sys.executable, "-m", module, *paths], env=self._engine.environment())
        wait_until("the proxy to listen", self._control.exists, 15)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for path in (self.socket, self._control):
            path.unlink(missing_ok=True)

    def add(self, fault: Fault) -> None:
        self._ask({"add": asdict(fault)})

    def clear(self) -> None:
        """Everything passes again."""
        self._ask({"clear": True})

    def hits(self) -> list[int]:
        """How often each fault struck, in the order of `add`."""
        return [int(number) for number in self._ask({})]

    def _ask(self, request: dict[str, Any]) -> Any:
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(10)
            door.connect(str(self._control))
            door.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(door.makefile("rb").readline())


class _Proxy:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._faults: list[Fault] = []

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readline())
        if "add" in request:
            self._faults.append(Fault(**request["add"]))
        if "clear" in request:
            self._faults.clear()
        writer.write(json.dumps([fault.hits for fault in self._faults]).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection, with one connection to dockerd for each request."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self._request(reader, writer):
                pass
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. False: the client's connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode(errors="replace").split(" ", 2)
        path = _VERSION.sub("", target.partition("?")[0])
        fault = next((one for one in self._faults if one.takes(method, path)), None)
        kind = fault.kind if fault else "pass"
        if fault is not None:
            fault.hits += 1
            await asyncio.sleep(fault.delay_s)
        if kind == "drop":
            return False
        if kind == "refuse":
            await _copy_body(reader, None, head)
            await _write(writer, _REFUSAL)
            return True
        upstream, engine = await asyncio.open_unix_connection(self._upstream, limit=_HEAD_BYTES)
        try:
            engine.write(head)
            await _copy_body(reader, engine, head)
            return await _answer(kind, method, (reader, writer), (upstream, engine))
        finally:
            engine.close()


async def _answer(
    kind: Kind,
    method: str,
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    engine: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> bool:
    reader, writer = client
    upstream, sink = engine
    head = await upstream.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if kind == "lost":
        if method != "HEAD":
            await _copy_body(upstream, None, head)
        return False
    if kind == "cut":
        # Its head promises more than ever comes.
        piece = await upstream.read(_CHUNK_BYTES) if method != "HEAD" and status != 204 else b""
        writer.write(head if _has_length(head) else head[: len(head) // 2])
        await _write(writer, piece[: len(piece) // 2])
        return False
    writer.write(head)
    await writer.drain()
    if status == 101 or b"application/vnd.docker.raw-stream" in head:
        await asyncio.gather(_pump(reader, sink), _pump(upstream, writer))
        return False
    if method == "HEAD" or status in (204, 304):
        return True
    if not _has_length(head):
        await _race(_pump(upstream, writer), reader)
        return False
    await _race(_copy_body(upstream, writer, head), reader)
    return not reader.at_eof()


async def _race(copying: Any, client: asyncio.StreamReader) -> None:
    """Copy until the end, or until the client hangs up: dockerd must hear of that, as of a pull that is cut."""
    copy = asyncio.ensure_future(copying)
    gone = asyncio.ensure_future(_hung_up(client))
    await asyncio.wait({copy, gone}, return_when=asyncio.FIRST_COMPLETED)
    for task in (copy, gone):
        if not task.done():
            task.cancel()
    results = await asyncio.gather(copy, gone, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def _hung_up(client: asyncio.StreamReader) -> None:
    while not client.at_eof():
        await asyncio.sleep(0.05)


async def _copy_body(source: asyncio.StreamReader, sink: asyncio.StreamWriter | None, head: bytes) -> None:
    """To the end of what the head announces; without a sink it is read for nobody."""
    while _is_chunked(head):
        line = await source.readline()
        size = int(line.split(b";")[0], 16)
        await _write(sink, line + await source.readexactly(size + 2))
        if size == 0:
            return
    left = int(_header(head, b"content-length") or 0)
    while left > 0:
        piece = await source.read(min(left, _CHUNK_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        await _write(sink, piece)


async def _write(sink: asyncio.StreamWriter | None, piece: bytes) -> None:
    if sink is not None:
        sink.write(piece)
        await sink.drain()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(_CHUNK_BYTES):
            sink.write(piece)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


def _header(head: bytes, name: bytes) -> bytes | None:
    found = re.search(rb"\r\n" + name + rb":\s*([^\r]*)", head, re.IGNORECASE)
    return found[1] if found else None


def _is_chunked(head: bytes) -> bool:
    return (_header(head, b"transfer-encoding") or b"").lower() == b"chunked"


def _has_length(head: bytes) -> bool:
    return _is_chunked(head) or _header(head, b"content-length") is not None


async def _main(listen: str, control: str, upstream: str) -> None:
    proxy = _Proxy(upstream)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"dockerd", 0, 0, 0)
    door = await asyncio.start_unix_server(proxy.serve, listen, limit=_HEAD_BYTES)
    async with door, await asyncio.start_unix_server(proxy.control, control):
        await door.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:4]))
