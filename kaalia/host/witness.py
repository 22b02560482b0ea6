"""Is the internet there? Asks those who have nothing to do with kaalia, by a TCP connection that says nothing."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

TIMEOUT_S = 3.0


async def answers(places: Iterable[tuple[str, int]], timeout_s: float = TIMEOUT_S) -> bool:
    """True as soon as one of these addresses takes a connection, or refuses it itself; each gets `timeout_s`."""
    for host, port in places:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if await _answers(host, port):
                    return True
    return False


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
