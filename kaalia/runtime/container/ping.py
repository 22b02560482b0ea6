"""Asks the container engine the smallest thing there is, `/_ping`, which waits for no container, disk or lock of it.

By the event loop's own sockets: the threads that other calls have may all be waiting for an engine that hangs.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from kaalia.runtime.container.faults import unavailable

_DOING = "ask the container engine whether it is there"
_REQUEST = b"GET /_ping HTTP/1.0\r\n\r\n"
_ANSWER_BYTES = 512

Answer = Callable[[], Awaitable[None]]


@asynccontextmanager
async def asked(socket_path: Path) -> AsyncIterator[Answer]:
    """The question was put. What it gives waits for the answer, and may be cancelled and called again.

    Both raise WorkloadError `engine_unavailable`: nobody is there, or he hung up. One who hangs takes the question.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as line:
        try:
            await loop.sock_connect(line, str(socket_path))
            await loop.sock_sendall(line, _REQUEST)
        except OSError as error:
            raise unavailable(_DOING, str(error)) from error

        async def answer() -> None:
            try:
                told = await loop.sock_recv(line, _ANSWER_BYTES)
            except OSError as error:
                raise unavailable(_DOING, str(error)) from error
            if not told:
                raise unavailable(_DOING, "it hung up")

        yield answer
