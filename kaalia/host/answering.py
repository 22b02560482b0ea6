"""Sockets on the free ports of this machine that answer a prober, and nobody else.

They can be given up one by one and at once, from any thread: whoever wants a port for a renter has it.
"""

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterable

from kaalia.host import ipv6
from kaalia.model.reach import Place
from kaalia.model.workload import Protocol

ANSWER_MAX_BYTES = 64
CONNECTIONS_MAX = 512
"""Open at once; strangers may knock too."""
CONNECTION_S = 5.0
RELEASE_S = 1.0
INSTANT_S = 0.1

Answerer = Callable[[int, Protocol, bytes], bytes | None]
"""(port on which it came, protocol, what came) to what is answered; None: nothing."""

_IP_PKTINFO = 8
"""ip(7): with each datagram comes the address that it was sent to. Python does not name it everywhere."""
_PKTINFO = struct.Struct("=i4s4s")
"""Interface, the local address, the address in the header."""

_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
"""The same by IPv6 (ipv6(7), linux/in6.h)."""
_PKTINFO6 = struct.Struct("=16si")

_KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


class Answering:
    """Holds sockets only between `open` and `close`. Everything but `release` runs in the event loop's thread.

    `by_ipv6`: whether it is asked by that; by IPv4 then too.
    """

    def __init__(self, by_ipv6: Callable[[], bool] = ipv6.is_only) -> None:
        self._by_ipv6 = by_ipv6
        self._family = socket.AF_INET
        self._doors: dict[Place, socket.socket] = {}
        self._connections: set[socket.socket] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def places(self) -> Collection[Place]:
        """Where it listens now."""
        return self._doors.keys()

    async def open(self, places: Iterable[Place], answer: Answerer) -> tuple[Place, ...]:
        """Listen on all of them; returns those that somebody else uses.

        Asked twice: who looks whether a port is free, as launches do, has it for an instant.
        """
        self._loop = asyncio.get_running_loop()
        self._family = socket.AF_INET6 if await asyncio.to_thread(self._by_ipv6) else socket.AF_INET
        if taken := await self._try(places, answer):
            await asyncio.sleep(INSTANT_S)
            taken = await self._try(taken, answer)
        return tuple(taken)

    async def _try(self, places: Iterable[Place], answer: Answerer) -> list[Place]:
        taken = []
        loop = asyncio.get_running_loop()
        for place in places:
            door = _bound(*place, self._family)
            if door is None:
                taken.append(place)
                continue
            self._doors[place] = door
            take = self._accept if place[1] is Protocol.TCP else self._receive
            loop.add_reader(door, take, place, door, answer)
            if len(self._doors) % 32 == 0:
                await asyncio.sleep(0)  # a hundred sockets must not hold up the loop
        return taken

    def release(self, place: Place) -> bool:
        """Give one port up, now, from whichever thread. True: it was held here, and is free."""
        loop = self._loop
        if loop is None or place not in self._doors:
            return False
        if _is_current(loop):
            self._shut(place)
            return True
        done = threading.Event()

        def shut() -> None:
            self._shut(place)
            done.set()

        try:
            loop.call_soon_threadsafe(shut)
        except RuntimeError:  # the loop has ended, and the process with it
            return False
        return done.wait(RELEASE_S)

    def close(self) -> None:
        for place in list(self._doors):
            self._shut(place)
        for connection in list(self._connections):
            self._hang_up(connection)

    def _shut(self, place: Place) -> None:
        door = self._doors.pop(place, None)
        if door is not None and self._loop is not None:
            self._loop.remove_reader(door)
            door.close()

    def _receive(self, place: Place, door: socket.socket, answer: Answerer) -> None:
        with contextlib.suppress(OSError):
            data, extras, _, peer = door.recvmsg(ANSWER_MAX_BYTES, socket.CMSG_SPACE(_PKTINFO6.size))
            if (text := answer(*place, data)) is not None:
                door.sendmsg([text], _from_same_address(extras), 0, peer)

    def _accept(self, place: Place, door: socket.socket, answer: Answerer) -> None:
        try:
            connection, _ = door.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._connections) >= CONNECTIONS_MAX or self._loop is None:
            connection.close()
            return
        self._connections.add(connection)
        self._loop.add_reader(connection, self._reply, place, connection, answer)
        self._loop.call_later(CONNECTION_S, self._hang_up, connection)

    def _reply(self, place: Place, connection: socket.socket, answer: Answerer) -> None:
        """A question comes in one piece: it is 42 bytes."""
        with contextlib.suppress(OSError):
            text = answer(*place, connection.recv(ANSWER_MAX_BYTES))
            if text is not None:
                connection.send(text)
                connection.shutdown(socket.SHUT_WR)
        self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        if connection in self._connections and self._loop is not None:
            self._connections.discard(connection)
            self._loop.remove_reader(connection)
            connection.close()


def _bound(port: int, protocol: Protocol, family: socket.AddressFamily) -> socket.socket | None:
    """None: another program uses the port. Raises OSError for what is no fault of the port, such as too many files."""
    door = socket.socket(family, _KINDS[protocol])
    is_ipv6 = family is socket.AF_INET6
    try:
        door.setblocking(False)
        if is_ipv6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if protocol is Protocol.TCP:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif is_ipv6:
            door.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            door.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        door.bind(("::" if is_ipv6 else "0.0.0.0", port))  # noqa: S104 renters' ports are on all addresses
        if protocol is Protocol.TCP:
            door.listen(16)
    except OSError as error:
        door.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise
    return door


def _from_same_address(extras: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """An answer must leave from the address that was asked: a machine may have several."""
    for level, kind, data in extras:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) >= _PKTINFO.size:
            local = _PKTINFO.unpack_from(data)[1]
            return [(level, kind, _PKTINFO.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO) and len(data) >= _PKTINFO6.size:
            return [(level, kind, _PKTINFO6.pack(_PKTINFO6.unpack_from(data)[0], 0))]
    return []


def _is_current(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
