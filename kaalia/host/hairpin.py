"""One short exchange over TCP with an address of this machine's own, as a tenant here would try it."""

import asyncio

TIMEOUT_S = 2.0


async def exchange(address: str, port: int, text: bytes, size: int) -> bytes | None:
    """Send `text`, read `size` bytes. None: not reached, or another answer."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, port, limit=4096)
            try:
                writer.write(text)
                return await reader.readexactly(size)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
