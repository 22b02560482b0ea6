"""Carries connections from one listener to another, also across network namespaces, by a unix socket between two of it.

`python -m tests.support.bridge FROM TO`, each as `HOST:PORT` or as the path of a unix socket.
"""

import asyncio
import contextlib
import sys

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def connect(to: str) -> Pair:
    if to.startswith("/"):
        return await asyncio.open_unix_connection(to)
    host, _, port = to.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def serve(at: str, to: str) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await connect(to)
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
            far_writer.close()
        writer.close()

    if at.startswith("/"):
        server = await asyncio.start_unix_server(take, at)
    else:
        host, _, port = at.rpartition(":")
        server = await asyncio.start_server(take, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
