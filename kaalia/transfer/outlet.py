"""The way out of a cell without a network: connections to the internet, each looked at first. Runs as a program:

    python -m kaalia.transfer.outlet allowed=192.168.5.0/24 pool=10.214.0.0/16 lan=2a00:1:2:3::/64

The cell listens on its own loopback, and hands that socket over on standard input; who connects there is served here,
in the machine's network, by SOCKS 5 (RFC 1928), as nobody or not at all. Refuses whatever tenants do not reach either:
this machine, its neighbours, and networks that are not the internet, but for those that are allowed. A name is looked
up here, and what was looked at is what is connected to. Ends with the line to the cell.
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

from kaalia.contracts import networks
from kaalia.contracts.networks import Surroundings
from kaalia.host import confine, mounts, routing
from kaalia.service import Tasks, answer_anyway
from kaalia.transfer.plan import GIVEN_MAX_BYTES, OUTLET_PORT, OUTLET_UNFIT, outlet_lists

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
    around = Surroundings.of(*outlet_lists(sys.argv[1:]))
    line = socket.socket(fileno=os.dup(0))
    line.setblocking(True)
    _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    if not descriptors:
        sys.exit("cannot be an outlet: the cell has gone")
    try:
        _stand_back()
    except OSError as error:
        os.write(2, f"cannot be an outlet as nobody: {error}\n".encode())
        sys.exit(OUTLET_UNFIT)
    asyncio.run(_serve(socket.socket(fileno=descriptors[0]), line, around))


def _stand_back() -> None:
    """It reads what renters and strangers send, so it has no rights at all, and no user's. Raises OSError."""
    confine.die_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)
    if os.geteuid() == 0:  # root owns more than rights open: Docker's socket, the machine's key
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    mounts.keep_rights()
    confine.die_with_parent(signal.SIGKILL)  # another user has to ask anew


async def _serve(listener: socket.socket, line: socket.socket, around: Surroundings) -> None:
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
            work = _connection(reader, writer, around)
            tasks.start(next(numbers), answer_anyway("a connection of a cell", work, lambda: None))

    server = await asyncio.start_server(meet, sock=listener, limit=PIECE_BYTES)
    await over.wait()
    server.close()
    await tasks.close()


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, around: Surroundings) -> None:
    try:
        async with asyncio.timeout(ASK_S):
            host, port = await _asked(reader, writer)
        answer, way = await _way(host, port, around)
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
    host: str, port: int, around: Surroundings
) -> tuple[int, tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
    """A connection to the first of its addresses that may be reached and is."""
    answer = _UNREACHABLE
    try:
        async with asyncio.timeout(CONNECT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
            for family, _, _, _, place in found:
                address = str(place[0])
                if not _may_be_reached(address, port, around):
                    answer = _NOT_ALLOWED
                    continue
                with contextlib.suppress(OSError):
                    return _DONE, await asyncio.open_connection(address, port, family=family, limit=PIECE_BYTES)
    except (OSError, TimeoutError, UnicodeError):
        pass
    return answer, None


def _may_be_reached(text: str, port: int, around: Surroundings) -> bool:
    """Raises OSError where the kernel does not say whose it is."""
    if "%" in text:
        return False  # of one link
    address = networks.plain(ipaddress.ip_address(text))
    return networks.is_reachable(address, port, around, is_own=routing.is_own(address))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


if __name__ == "__main__":
    main()
