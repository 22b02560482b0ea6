"""Long answers of the Docker Engine API (events, pull progress, logs), each over a connection of its own.

docker-py cannot give these a time-out for silence, nor cut them before their first byte, so they do not use it.
"""

import http.client
import json
import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kaalia.runtime.container.faults import classify

_CHUNK_BYTES = 65536
_FRAME_HEADER = struct.Struct(">4xL")


class Stream:
    """One request whose answer is read piece by piece in a thread; any thread may cut it, for good.

    Raises WorkloadError for a refusal, TimeoutError after `silence_s` without a byte, and OSError or HTTPException when
    the answer breaks off.
    """

    def __init__(self, socket_path: Path, silence_s: float | None = None) -> None:
        self._socket_path = socket_path
        self._silence_s = silence_s
        self._is_cut = False
        self._connection = http.client.HTTPConnection("localhost")
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def open(
        self, doing: str, method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> int:
        """Send the request and wait for the head of the answer: its status. `path` begins with the API version."""
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.settimeout(self._silence_s)
        self._connection.sock.connect(str(self._socket_path))
        if self._is_cut:
            raise ConnectionAbortedError(f"the connection to {self._socket_path} was cut")
        self._connection.request(method, f"{path}?{urlencode(params)}", headers=dict(headers or {}))
        self._response = self._connection.getresponse()
        if self._response.status >= 400:
            text = self._response.read(_CHUNK_BYTES).decode(errors="replace")
            with suppress(json.JSONDecodeError, AttributeError):
                text = str(json.loads(text).get("message", text))
            raise classify(doing, text, self._response.status)
        return self._response.status

    def cut(self) -> None:
        """Wake the reading thread with an end. Harmless at any time."""
        self._is_cut = True
        # Not connected yet, or closed already: then there is no reader to wake.
        with suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)

    def documents(self) -> Iterator[dict[str, Any]]:
        """JSON documents, one a line."""
        rest = b""
        while chunk := self._read1():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if rest.strip():
            yield json.loads(rest)

    def beginning(self, size_max: int) -> bytes:
        """The whole answer, or its first `size_max` bytes."""
        return self._read(size_max)

    def last_output(self, size_max: int) -> bytes:
        """The end of a container's output, at most `size_max` bytes."""
        kept: deque[bytes] = deque()
        size = 0
        for chunk in self._frames():
            kept.append(chunk)
            size += len(chunk)
            while size - len(kept[0]) >= size_max:
                size -= len(kept.popleft())
        return b"".join(kept)[-size_max:]

    def _frames(self) -> Iterator[bytes]:
        """Pieces of the output, which Docker multiplexes: 4 bytes of stream number, 4 of length, the text."""
        while header := self._read(_FRAME_HEADER.size):
            yield self._read(_FRAME_HEADER.unpack(header)[0])

    def _read1(self) -> bytes:
        return b"" if self._response is None else self._response.read1(_CHUNK_BYTES)

    def _read(self, size: int) -> bytes:
        return b"" if self._response is None else self._response.read(size)


def peer_pid(socket_path: Path, timeout_s: float) -> int:
    """The process that listens on a unix socket, as the kernel noted it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(socket_path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])
