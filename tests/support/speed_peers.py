"""Peers of speed tests for tests: an honest one, and such that lie, stall, cut off or give too little."""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kaalia.capability.measuring import Plan
from kaalia.speed import peer
from kaalia.speed.sockets import read_exactly
from kaalia.wire import stream
from kaalia.wire.stream import Ask, Verdict

HERE = "127.0.0.1"
SECRET = b"a secret of two machines"


@contextmanager
def serving(made: peer.Peer) -> Iterator[int]:
    """The port of a peer on threads of this process."""
    with peer.listen(HERE, 0) as listener:
        threading.Thread(target=made.serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def plan(port: int, *, seconds: int = 1, bytes_max: int = 10**9, streams: int = 2, secret: bytes = SECRET) -> Plan:
    order = secrets.token_bytes(stream.ID_BYTES)
    key = stream.shared_key(secret, order).hex()
    return Plan(HERE, port, order.hex(), key, streams, seconds, bytes_max)


@dataclass(frozen=True)
class Met:
    """A connection whose machine has been told to go."""

    connection: socket.socket
    key: bytes
    challenge: bytes
    wanted: Ask

    def tell(self, count: int) -> None:
        self.connection.sendall(stream.report(self.key, self.challenge, self.wanted.challenge, count))

    def drain(self) -> int:
        count = 0
        while got := self.connection.recv(1 << 20):
            count += len(got)
        return count


Conduct = Callable[[Met], None]


@contextmanager
def misbehaving(conduct: Conduct) -> Iterator[int]:
    """The port of a peer that knows the secret, and does what `conduct` does from the verdict on."""

    def meet(connection: socket.socket) -> None:
        challenge = bytes(stream.ID_BYTES)
        connection.sendall(stream.greeting(challenge))
        wanted = stream.read_ask(read_exactly(connection, stream.ASK_BYTES))
        if wanted is not None:  # another stream's failure may have ended this one
            conduct(Met(connection, stream.shared_key(SECRET, wanted.order), challenge, wanted))

    with answering(meet) as port:
        yield port


@contextmanager
def answering(meet: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a program that does `meet` with each connection."""

    def each(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            meet(connection)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=each, args=(listener.accept()[0],), daemon=True).start()

    with peer.listen(HERE, 0) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def go(met: Met, key: bytes | None = None) -> None:
    said = stream.verdict(key or met.key, met.challenge, met.wanted.challenge, Verdict.GO)
    met.connection.sendall(said)


def unproven(met: Met) -> None:
    """Somebody who heard of the order, and does not know its key."""
    go(met, secrets.token_bytes(32))
    met.drain()


def cutting_off(met: Met) -> None:
    go(met)
    met.connection.sendall(bytes(1 << 20))


def stalling(met: Met) -> None:
    go(met)
    met.connection.sendall(bytes(1 << 20))
    met.drain()


def trickling(met: Met) -> None:
    go(met)
    while True:
        met.connection.sendall(b"x")
        time.sleep(0.05)


def overflowing(met: Met) -> None:
    go(met)
    met.connection.sendall(bytes(met.wanted.bytes_max + (4 << 20)))
    met.drain()


def exaggerating(met: Met) -> None:
    go(met)
    met.tell(met.drain() + 1)


def forging(met: Met) -> None:
    go(met)
    met.drain()
    met.connection.sendall(stream.report(bytes(32), met.challenge, met.wanted.challenge, 10**9))


def silent_in_the_end(met: Met) -> None:
    go(met)
    met.drain()
