"""The peer of speed tests: gives and takes bytes on connections that prove an order, within the order's limits.

A process of its own with a thread for each stream; the kernel does the work, so the threads rarely wait for each other.
Orders come from whoever runs it (`add`), or with a shared secret from the machines that know it. Refuses to send
anything but a greeting to who proves no order, to serve a stream twice, and more tests at once than the line can take.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

from kaalia.model.speed import Direction
from kaalia.speed.sockets import BUFFER_BYTES, read_exactly, set_timeout
from kaalia.wire import stream
from kaalia.wire.speed import BYTES_MAX, SECONDS_MAX, STREAMS_MAX
from kaalia.wire.stream import Ask, Verdict

CONNECTIONS_MAX = 64
GREET_S = 5.0
STALL_S = 5.0
DRAIN_S = 15.0
"""After the time of an upload: what is still on its way may be much, on a line with long queues."""
ABANDONED_S = 8.0
"""An order that was begun and has no connection for so long is given up by its machine."""
ORDERS_PER_HOUR = 24
"""Of one machine."""
AT_ONCE = 1
"""Tests that share a line measure each other."""


class Refused(Exception):  # noqa: N818 it is an answer
    """An order that is not taken. `retry_after_s`: when it may be."""

    def __init__(self, code: str, retry_after_s: int) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Order:
    """`owner`: the machine, of which one test runs at a time. `bytes_max` of one direction."""

    owner: str
    key: bytes
    streams: int
    seconds: int
    bytes_max: int
    expires_s: float = 0.0
    idle_since_s: float = 0.0
    active: int = 0
    taken: set[tuple[Direction, int]] = field(default_factory=set)

    def is_live(self, now_s: float) -> bool:
        if self.active:
            return True
        is_done = len(self.taken) >= 2 * self.streams
        is_abandoned = bool(self.taken) and now_s - self.idle_since_s > ABANDONED_S
        return not is_done and not is_abandoned and now_s < self.expires_s


class Peer:
    """`secret`: what machines that bring their own orders know; None: only orders that were added count."""

    def __init__(self, secret: bytes | None = None, at_once: int = AT_ONCE, per_hour: int = ORDERS_PER_HOUR) -> None:
        self._secret = secret
        self._at_once = at_once
        self._per_hour = per_hour
        self._orders: dict[bytes, Order] = {}
        self._begun: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._block = os.urandom(BUFFER_BYTES)  # no line makes it shorter

    def add(self, identity: bytes, order: Order) -> None:
        """From now on its streams are served. Raises Refused."""
        with self._lock:
            self._add(identity, order, time.monotonic())

    def serve(self, listener: socket.socket) -> None:
        """Until the listener is closed."""
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return
                time.sleep(0.1)  # no more files, or a connection that went before it was taken
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._connection, args=(connection, address[0]), daemon=True).start()

    def _add(self, identity: bytes, order: Order, now_s: float) -> None:
        self._orders = {name: one for name, one in self._orders.items() if one.is_live(now_s)}
        begun = [at_s for at_s in self._begun.get(order.owner, ()) if now_s - at_s < 3600]
        if len(begun) >= self._per_hour:
            raise Refused("speed_too_often", max(1, round(3600 - (now_s - begun[0]))))
        if len(self._orders) >= self._at_once or any(one.owner == order.owner for one in self._orders.values()):
            raise Refused("speed_busy", max(5, 2 * order.seconds + 5))
        order.streams = max(1, min(order.streams, STREAMS_MAX))
        order.seconds = max(1, min(order.seconds, SECONDS_MAX))
        order.bytes_max = max(1, min(order.bytes_max, BYTES_MAX))
        order.expires_s = now_s + 2 * (order.seconds + DRAIN_S)
        self._orders[identity] = order
        known = self._begun.items()
        self._begun = {owner: times for owner, times in known if times and now_s - times[-1] < 3600}
        self._begun[order.owner] = [*begun, now_s]

    def _connection(self, connection: socket.socket, address: str) -> None:
        order: Order | None = None
        try:
            with connection, contextlib.suppress(OSError):
                set_timeout(connection, GREET_S)
                challenge = secrets.token_bytes(stream.ID_BYTES)
                connection.sendall(stream.greeting(challenge))
                data = read_exactly(connection, stream.ASK_BYTES)
                wanted = stream.read_ask(data)
                if wanted is None:
                    return
                key, code, order = self._admit(wanted, challenge, data, address)
                connection.sendall(stream.verdict(key, challenge, wanted.challenge, code))
                if order is not None and key is not None:
                    self._carry(connection, order, key, wanted, challenge)
        finally:
            self._release(order)
            self._places.release()

    def _admit(
        self, wanted: Ask, challenge: bytes, data: bytes, address: str
    ) -> tuple[bytes | None, Verdict, Order | None]:
        with self._lock:
            now_s = time.monotonic()
            order = self._orders.get(wanted.order)
            key = order.key if order else stream.shared_key(self._secret, wanted.order) if self._secret else None
            if key is None or not stream.is_proven(key, challenge, data):
                return None, Verdict.UNKNOWN, None
            if order is None:
                order = Order(address, key, wanted.streams, wanted.seconds, wanted.bytes_max * wanted.streams)
                try:
                    self._add(wanted.order, order, now_s)
                except Refused:
                    return key, Verdict.BUSY, None
            if now_s >= order.expires_s:
                return key, Verdict.EXPIRED, None
            place = (wanted.direction, wanted.index)
            if place in order.taken or wanted.index >= order.streams:
                return key, Verdict.TAKEN, None
            order.taken.add(place)
            order.active += 1
            return key, Verdict.GO, order

    def _release(self, order: Order | None) -> None:
        if order is not None:
            with self._lock:
                order.active -= 1
                order.idle_since_s = time.monotonic()

    def _carry(self, connection: socket.socket, order: Order, key: bytes, wanted: Ask, challenge: bytes) -> None:
        limit = min(wanted.bytes_max, order.bytes_max // order.streams)
        seconds = min(wanted.seconds, order.seconds)
        set_timeout(connection, STALL_S)
        if wanted.direction is Direction.DOWN:
            self._give(connection, limit, time.monotonic() + seconds + 1)
        else:
            count = _take(connection, limit, time.monotonic() + seconds + DRAIN_S)
            connection.sendall(stream.report(key, challenge, wanted.challenge, count))

    def _give(self, connection: socket.socket, limit: int, until_s: float) -> None:
        block, left = memoryview(self._block), limit
        while left > 0 and time.monotonic() < until_s:
            left -= connection.send(block[:left])
        connection.shutdown(socket.SHUT_WR)


def _take(connection: socket.socket, limit: int, until_s: float) -> int:
    buffer, count = bytearray(BUFFER_BYTES), 0
    while count <= limit and time.monotonic() < until_s:
        got = connection.recv_into(buffer)
        if not got:
            break
        count += got
    return count


def main() -> int:
    """The child of a marketplace: a JSON line for each question on stdin, one for each answer on stdout.

    `{"listen": [HOST, PORT]}` first, then orders. Ends with its stdin.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    peer = Peer()
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps(_open(peer, asked["listen"]) if "listen" in asked else _order(peer, asked)) + "\n")
        sys.stdout.flush()
    os._exit(0)  # streams under way end with their process


def _open(peer: Peer, place: list[object]) -> dict[str, object]:
    host, port = str(place[0]), int(str(place[1]))
    try:
        listener = listen(host, port)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    threading.Thread(target=peer.serve, args=(listener,), daemon=True).start()
    return {"port": listener.getsockname()[1]}


def _order(peer: Peer, asked: dict[str, object]) -> dict[str, object]:
    streams, seconds, size = (int(str(asked[name])) for name in ("streams", "seconds", "bytes_max"))
    order = Order(str(asked["owner"]), bytes.fromhex(str(asked["key"])), streams, seconds, size)
    try:
        peer.add(bytes.fromhex(str(asked["order"])), order)
    except Refused as refused:
        return {"refused": refused.code, "retry_after_s": refused.retry_after_s}
    return {"streams": order.streams, "seconds": order.seconds, "bytes_max": order.bytes_max}


def listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64)


if __name__ == "__main__":
    sys.exit(main())
