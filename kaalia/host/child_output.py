"""What a child process says: a part of host/process.py. Never more of it is kept than a bound, whatever it writes."""

import asyncio
from collections.abc import Callable

STDOUT, STDERR = 1, 2


class Output(asyncio.SubprocessProtocol):
    """Collects at most `limit_bytes` of each stream and drops the rest, so that the command never blocks on a pipe."""

    def __init__(self, limit_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.limit_bytes = limit_bytes
        self.exited: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.truncated = False
        self._streams = {STDOUT: bytearray(), STDERR: bytearray()}

    def text(self, fd: int) -> str:
        return self._streams[fd].decode(errors="replace")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        stream = self._streams[fd]
        room = self.limit_bytes - len(stream)
        stream += data[:room]
        self.truncated = self.truncated or len(data) > room

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class Lines(Output):
    """Hands out one line of stdout per request; keeps stderr as evidence."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._buffer = bytearray()
        self._answer: asyncio.Future[str] | None = None
        self._ended = False

    def expect(self) -> asyncio.Future[str]:
        """The answer to the request that follows: EOFError if the child is gone, OverflowError if it is too long."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._ended:
            self._answer.set_exception(EOFError())
        return self._answer

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != STDOUT:
            super().pipe_data_received(fd, data)
            return
        self._buffer += data
        line, found, rest = self._buffer.partition(b"\n")
        if len(line) > self.limit_bytes:
            self._settle(OverflowError())
            self._buffer.clear()
        elif found:
            self._buffer = rest
            self._settle(line.decode(errors="replace"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == STDOUT:
            self._ended = True
            self._settle(EOFError())

    def _settle(self, outcome: str | Exception) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(outcome, str):
            self._answer.set_result(outcome)
        else:
            self._answer.set_exception(outcome)


class Told(Output):
    """Hands on a stream line by line; a line that does not end is handed on in parts. Progress returns to the start."""

    def __init__(self, on_line: Callable[[str], None], stream: int = STDERR, limit_bytes: int = 4096) -> None:
        super().__init__(limit_bytes)
        self._on_line = on_line
        self._stream = stream
        self._buffer = bytearray()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != self._stream:
            if fd == STDERR:
                super().pipe_data_received(fd, data)
            return
        self._buffer += data.replace(b"\r", b"\n")
        *lines, rest = self._buffer.split(b"\n")
        if len(rest) > self.limit_bytes:
            lines, rest = [*lines, rest], bytearray()
        self._buffer = bytearray(rest)
        for line in lines:
            if line.strip():
                self._on_line(line.decode(errors="replace").rstrip())
