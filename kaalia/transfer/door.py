"""A port of this machine by which one holder's files are reached with rsync, for as long as it was granted.

Each connection gets a cell and an sshd of its own, so that nothing that a stranger sends is read by anything that sees
more than these files. Sessions outlive the door's time; they end with the holder's files, and with the daemon.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from kaalia.clock import Clock
from kaalia.contracts import copying
from kaalia.errors import HostError, KaaliaError
from kaalia.model.copying import Holder
from kaalia.service import Tasks, answer_anyway
from kaalia.transfer.lobby import Lobby

log = logging.getLogger(__name__)

OPEN_S = 300.0
"""From a grant, or from the end of the last session that a key let in, on."""
GRANT_S = 3600.0
"""From a grant on: its keys begin no session after that. The renter's client asks for one before each copy."""
SESSIONS_MAX = 16
"""Of one door, with a proven key. Who has proven none waits in the lobby, which has bounds of its own."""
SESSIONS_ALL_MAX = 32
"""The same over all doors: of each some processes, with up to `cell.MEMORY_BYTES`."""
CONNECTIONS_ALL_MAX = 64
"""Over all doors and of every kind: sessions, the lobby, and as many as it that were hung up on and are not over."""
BACKLOG = 16
_TCP_INFO_BYTES = 136
"""Up to tcpi_bytes_received of linux/tcp.h."""


@dataclass(frozen=True, slots=True)
class Access:
    """Whose keys log in, and whether they may write."""

    keys: tuple[str, ...] = ()
    is_read_only: bool = False


Serve = Callable[[Holder, Access, int, Callable[[str], None]], Awaitable[None]]
"""(whose files, for whom, the connection's descriptor, what to call with the fingerprint of the key that was proven):
serves it to its end. Raises KaaliaError."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes on the line, with what encryption adds and less what compression saves."""

    received: int = 0
    sent: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(self.received + other.received, self.sent + other.sent)


class Door:
    """`accept` is repeated until the door is closed, which ends its sessions too."""

    def __init__(
        self,
        holder: Holder,
        listener: socket.socket,
        serve: Serve,
        clock: Clock,
        doors: Callable[[], Collection["Door"]],
        lobby: Lobby,
    ) -> None:
        """`listener`: bound, listening, not blocking; it is closed here. `doors`: the machine's. `lobby`: theirs."""
        self.holder = holder
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._serve_one = serve
        self._clock = clock
        self._doors = doors
        self._lobby = lobby
        self._access = Access()
        self._until_s = self._last_s = 0.0
        self._sessions = Tasks()
        self._connections: dict[int, socket.socket] = {}
        self._let_in: dict[int, str] = {}
        """By session, the fingerprint of its key."""
        self._ended = Moved()
        self._numbers = 0

    def grant(self, keys: tuple[str, ...], *, is_read_only: bool = False) -> None:
        """These keys, and no others, may log in from now on for a while."""
        self._access = Access(keys, is_read_only)
        self._last_s = self._clock.monotonic_s() + GRANT_S
        self._stay()

    def withdraw(self, keys: tuple[str, ...]) -> None:
        """These may log in no more; sessions that they began end, and so do all that have proven no key yet."""
        self._access = Access(tuple(one for one in self._access.keys if one not in keys), self._access.is_read_only)
        gone = {copying.fingerprint(one) for one in keys}
        self._end(lambda number: self._let_in.get(number, "") in {"", *gone})

    def keep_for_reading(self) -> None:
        """Nobody writes from now on; what began while one could ends."""
        if not self._access.is_read_only:
            self._access = Access(self._access.keys, is_read_only=True)
            self._end(lambda _: True)

    def _end(self, which: Callable[[int], bool]) -> None:
        for number, connection in self._connections.items():
            if which(number):
                _hang_up(connection)

    @property
    def is_read_only(self) -> bool:
        return self._access.is_read_only

    @property
    def is_due(self) -> bool:
        """Nobody who proved a key is there, and the time is over. Strangers knock as long as they like."""
        return not self._let_in and self._clock.monotonic_s() >= self._until_s

    @property
    def sessions(self) -> int:
        return len(self._connections)

    @property
    def proven(self) -> int:
        """Sessions that a key let in."""
        return len(self._let_in)

    @property
    def _is_full(self) -> bool:
        return self.proven >= SESSIONS_MAX or sum(one.proven for one in self._doors()) >= SESSIONS_ALL_MAX

    @property
    def moved(self) -> Moved:
        """By all sessions so far."""
        return sum((moved(one) for one in self._connections.values()), self._ended)

    def forget_moved(self) -> None:
        """What comes from now on is counted from 0."""
        self._ended = Moved()

    async def accept(self) -> None:
        """One connection; a door that is full hangs up, and so do all when the machine serves enough."""
        connection, peer = await asyncio.get_running_loop().sock_accept(self._listener)
        is_over = self.is_due or self._clock.monotonic_s() >= self._last_s or not self._access.keys
        is_full = self._is_full or sum(one.sessions for one in self._doors()) >= CONNECTIONS_ALL_MAX
        place = None if is_over or is_full else self._lobby.enter(str(peer[0]), lambda: _hang_up(connection))
        if place is None:
            connection.close()
            return
        self._numbers += 1
        self._connections[self._numbers] = connection
        self._sessions.start(self._numbers, self._serve(self._numbers, connection, place))

    async def close(self) -> None:
        """With all its sessions."""
        self._listener.close()
        for connection in self._connections.values():
            _hang_up(connection)
        await self._sessions.close()

    async def _serve(self, number: int, connection: socket.socket, place: int) -> None:
        def let_in(fingerprint: str) -> None:
            self._lobby.leave(place)
            if self._is_full or fingerprint not in map(copying.fingerprint, self._access.keys):
                # Others were faster, or the key was withdrawn after the cell had got it.
                _hang_up(connection)
            else:
                self._let_in[number] = fingerprint

        try:
            await answer_anyway(f"copies of {self.holder}", self._served(connection, let_in), lambda: None)
        finally:
            self._lobby.leave(place)
            self._ended += moved(connection)
            _hang_up(connection)
            connection.close()
            del self._connections[number]
            if self._let_in.pop(number, None) is not None:
                self._stay()

    async def _served(self, connection: socket.socket, let_in: Callable[[str], None]) -> None:
        try:
            connection.setblocking(True)  # the program reads and writes it as any other
            await self._serve_one(self.holder, self._access, connection.fileno(), let_in)
        except KaaliaError as error:
            log.warning("a connection to the files of %s failed: %s", self.holder, error)

    def _stay(self) -> None:
        self._until_s = min(max(self._until_s, self._clock.monotonic_s() + OPEN_S), self._last_s)


def listen(port: int, *, by_ipv6: bool) -> socket.socket:
    """On all addresses. Raises HostError `copy_port_taken`."""
    family = socket.AF_INET6 if by_ipv6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if by_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("", port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        message = f"cannot listen for copies on port {port}: {error.strerror or error}"
        raise HostError("copy_port_taken", message, remedy="copy again: another port is taken then") from error
    return made


def moved(connection: socket.socket) -> Moved:
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return Moved()
    if len(info) < _TCP_INFO_BYTES:
        return Moved()
    acknowledged, received = struct.unpack_from("=QQ", info, _TCP_INFO_BYTES - 16)
    return Moved(received, acknowledged)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
