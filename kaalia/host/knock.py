"""Asks a port of this machine, as anybody would, and gives back what it answers."""

import asyncio
import ipaddress

ANSWER_MAX_BYTES = 512


async def tcp(address: str, port: int, asked: bytes, timeout_s: float) -> bytes:
    """Raises OSError; TimeoutError is one."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(address, port)
        try:
            writer.write(asked)
            await writer.drain()
            return await reader.read(ANSWER_MAX_BYTES)
        finally:
            writer.close()


async def udp(address: str, port: int, asked: bytes, timeout_s: float) -> bytes:
    """The first datagram that comes back. Raises OSError; TimeoutError is one."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Answer(answer), remote_addr=(address, port))
    try:
        transport.sendto(asked)
        async with asyncio.timeout(timeout_s):
            return await answer
    finally:
        transport.close()


async def connect(address: str, port: int, timeout_s: float) -> None:
    """Open a connection and close it. Raises OSError; TimeoutError is one."""
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(address, port)
        writer.close()


async def addresses(name: str, port: int, timeout_s: float) -> list[str]:
    """Of a name, IPv4 first. Raises OSError; TimeoutError is one."""
    async with asyncio.timeout(timeout_s):
        found = await asyncio.get_running_loop().getaddrinfo(name, port)
    unique = {str(where[0]) for *_, where in found}
    return sorted(unique, key=lambda text: (ipaddress.ip_address(text).version, text))


class _Answer(asyncio.DatagramProtocol):
    """The first answer, or the first error."""

    def __init__(self, answer: "asyncio.Future[bytes]") -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if not self._answer.done():
            self._answer.set_result(data[:ANSWER_MAX_BYTES])

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)
