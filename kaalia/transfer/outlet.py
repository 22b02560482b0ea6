"""The way out of a cell without a network: connections to the internet, each looked at first. Runs as a program:

    python -m kaalia.transfer.outlet 10.0.0.0/8

The cell listens on its own loopback, and hands that socket over on standard input; who connects there is served here,
in the machine's network, by SOCKS 5 (RFC 1928). Refuses whatever tenants do not reach either: this machine, its
neighbours, and networks that are not the internet, but for those that are named. A name is looked up here, and what
was looked at is what is connected to. Ends with the line to the cell.
"""

import asyncio
import concurrent.futures.thread
import contextlib
import ipaddress
import json
import os
import resource
import signal
import socket
import struct
import sys

from kaalia.contracts import cloud
from kaalia.host import confine, mounts
from kaalia.service import Tasks, answer_anyway
from kaalia.transfer.plan import GIVEN_MAX_BYTES, OUTLET_PORT

CONNECTIONS_MAX = 64
CONNECT_S, ASK_S = 20.0, 10.0
PIECE_BYTES = 256 * 1024
LOOKUPS_AT_ONCE_MAX = 4
_MEMORY_BYTES = 2**29
_NOBODY = 65534
_VERSION, _CONNECT, _IPV4, _NAME, _IPV6 = 5, 1, 1, 3, 4
_DONE, _NOT_ALLOWED, _UNREACHABLE = 0, 2, 4


def opened(line: int) -> dict[str, str]:
    """In the cell: what was given, once the outlet's socket has gone the other way. Raises OSError, ValueError."""
    with socket.socket(fileno=os.dup(line)) as ours:
        ours.setblocking(True)
        given = b""
        while not given.endswith(b"\n"):
            piece = ours.recv(GIVEN_MAX_BYTES)
            if not piece or len(given) > GIVEN_MAX_BYTES:
                raise OSError("the line was cut")
            given += piece
        confine.loopback()
        with socket.create_server(("127.0.0.1", OUTLET_PORT), backlog=CONNECTIONS_MAX) as listener:
            socket.send_fds(ours, [b"."], [listener.fileno()])
    return dict(json.loads(given))


def main() -> None:
    allowed = tuple(ipaddress.ip_network(one) for one in sys.argv[1:])
    line = socket.socket(fileno=os.dup(0))
    line.setblocking(True)
    _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    if not descriptors:
        sys.exit("cannot be an outlet: the cell has gone")
    _stand_back()
    asyncio.run(_serve(socket.socket(fileno=descriptors[0]), line, allowed))


def _stand_back() -> None:
    """It reads what renters and strangers send, so it has no rights at all."""
    confine.die_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    with contextlib.suppress(PermissionError):
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    mounts.keep_rights()
    confine.die_with_parent(signal.SIGKILL)  # another user has to ask anew


async def _serve(listener: socket.socket, line: socket.socket, allowed: tuple[cloud.Network, ...]) -> None:
    loop = asyncio.get_running_loop()
    # Whatever is imported later may lie where nobody but root reads.
    loop.set_default_executor(concurrent.futures.thread.ThreadPoolExecutor(LOOKUPS_AT_ONCE_MAX))
    line.setblocking(False)
    tasks, over = Tasks(), asyncio.Event()
    loop.add_reader(line.fileno(), over.set)  # nothing is said there: it was cut
    numbers = iter(range(sys.maxsize))

    def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(tasks) >= CONNECTIONS_MAX:
            writer.close()
        else:
            work = _connection(reader, writer, allowed)
            tasks.start(next(numbers), answer_anyway("a connection of a cell", work, lambda: None))

    server = await asyncio.start_server(meet, sock=listener, limit=PIECE_BYTES)
    await over.wait()
    server.close()
    await tasks.close()


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: tuple[cloud.Network, ...]
) -> None:
    try:
        async with asyncio.timeout(ASK_S):
            host, port = await _asked(reader, writer)
        answer, way = await _way(host, port, allowed)
        writer.write(struct.pack("!BBBB4sH", _VERSION, answer, 0, _IPV4, b"\0" * 4, 0))
        await writer.drain()
        if way is not None:
            far_reader, far_writer = way
            try:
                await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
            finally:
                far_writer.close()
    except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        pass  # its program notices, and says so
    finally:
        writer.close()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int]:
    """Where to. Raises ValueError for what is no request to connect."""
    version, count = await reader.readexactly(2)
    await reader.readexactly(count)
    if version != _VERSION:
        raise ValueError(version)
    writer.write(bytes((_VERSION, 0)))
    version, command, _, kind = await reader.readexactly(4)
    if (version, command) != (_VERSION, _CONNECT):
        raise ValueError(command)
    if kind == _NAME:
        (length,) = await reader.readexactly(1)
        host = (await reader.readexactly(length)).decode("ascii")
    elif kind in (_IPV4, _IPV6):
        host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == _IPV4 else 16)))
    else:
        raise ValueError(kind)
    return host, int.from_bytes(await reader.readexactly(2))


async def _way(
    host: str, port: int, allowed: tuple[cloud.Network, ...]
) -> tuple[int, tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
    """A connection to the first of its addresses that may be reached and is."""
    answer = _UNREACHABLE
    try:
        async with asyncio.timeout(CONNECT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
            for family, _, _, _, place in found:
                address = str(place[0])
                if not _may_be_reached(family, address, port, allowed):
                    answer = _NOT_ALLOWED
                    continue
                with contextlib.suppress(OSError):
                    return _DONE, await asyncio.open_connection(address, port, family=family, limit=PIECE_BYTES)
    except (OSError, TimeoutError, UnicodeError):
        pass
    return answer, None


def _may_be_reached(family: int, text: str, port: int, allowed: tuple[cloud.Network, ...]) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if not cloud.is_reachable(address, port, allowed):
        return False
    return not address.is_global or not _is_own(family, text)


def _is_own(family: int, text: str) -> bool:
    """Of this machine: what listens there may be closed to strangers, and to nobody here."""
    with socket.socket(family, socket.SOCK_DGRAM) as trying:
        try:
            trying.connect((text, 9))
        except OSError:
            return False
        return bool(trying.getsockname()[0] == text)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


if __name__ == "__main__":
    main()
