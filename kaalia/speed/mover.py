"""A child of whoever measures: opens some streams of an order, moves bytes on them, and says how many when asked.

A JSON line on stdin, one on stdout: `open` connects and proves, `go` begins, `sample` tells. What comes is counted
here; what goes is counted by the other side's kernel (its acknowledgements), and in the end by the peer's own word,
which must be the same number. Ends with its stdin.
"""

import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from kaalia.errors import HostError
from kaalia.model.speed import Direction
from kaalia.speed.sockets import BUFFER_BYTES, read_exactly, set_timeout
from kaalia.wire import stream
from kaalia.wire.stream import Ask, Verdict

CONNECT_S = 5.0
STALL_S = 5.0
REPORT_S = 15.0
"""After an upload: what is still on its way must arrive first."""
_ACKED_AT = 120
"""Of tcpi_bytes_acked in struct tcp_info (linux/tcp.h), since Linux 4.1."""
_REFUSALS = {
    Verdict.UNKNOWN: ("speed_order_unknown", "it knows no such order, or another secret"),
    Verdict.TAKEN: ("speed_order_used", "it has served this order before"),
    Verdict.BUSY: ("speed_busy", "it is busy with another test, or was asked too often"),
    Verdict.EXPIRED: ("speed_order_unknown", "the order's time is over"),
}


@dataclass(slots=True)
class Stream:
    """One connection. `count`: bytes that were received, or handed to the kernel."""

    connection: socket.socket
    key: bytes
    peer_challenge: bytes
    challenge: bytes
    limit: int
    count: int = 0
    acked: int = 0
    is_done: bool = False


@dataclass(slots=True)
class Work:
    """What `open` says."""

    host: str
    port: int
    order: bytes
    key: bytes
    direction: Direction
    indexes: list[int]
    streams: int
    seconds: float
    bytes_max: int
    opened: list[Stream] = field(default_factory=list)
    mark: tuple[float, int] | None = None
    """When the first stream ended, and what all had moved then: what is counted ends there."""
    error: HostError | None = None

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


def main() -> int:
    work: Work | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            match asked["do"]:
                case "open":
                    work = _work(asked)
                    work.opened = [_open(work, index) for index in work.indexes]
                case "go" if work is not None:
                    _go(work)
            answer = _sample(work) if work is not None else {}
        except HostError as error:
            answer = _told(error)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)  # threads may wait in the kernel


def _work(asked: dict[str, Any]) -> Work:
    return Work(
        asked["host"],
        asked["port"],
        bytes.fromhex(asked["order"]),
        bytes.fromhex(asked["key"]),
        Direction(asked["direction"]),
        asked["indexes"],
        asked["streams"],
        asked["seconds"],
        asked["bytes_max"],
    )


def _open(work: Work, index: int) -> Stream:
    """A proven connection. Raises HostError."""
    try:
        connection = socket.create_connection((work.host, work.port), timeout=CONNECT_S)
    except OSError as error:
        raise HostError(
            "speed_peer_unreachable",
            f"cannot reach the speed peer {work.name}: {error.strerror or error}",
            remedy="check that it runs, and that its port is open for TCP in its firewall and in this one's",
        ) from error
    try:
        set_timeout(connection, CONNECT_S)
        return _proven(work, index, connection)
    except OSError as error:
        raise _lost(work, error) from error


def _proven(work: Work, index: int, connection: socket.socket) -> Stream:
    peer_challenge = stream.read_greeting(read_exactly(connection, stream.GREETING_BYTES))
    if peer_challenge is None:
        raise HostError(
            "speed_peer_foreign",
            f"cannot measure with {work.name}: what answers there is no speed peer of this version",
            remedy="check address and port; give both machines the same version of kaalia",
        )
    limit = max(1, work.bytes_max // work.streams)
    challenge = secrets.token_bytes(stream.ID_BYTES)
    wanted = Ask(work.order, challenge, work.direction, index, work.streams, round(work.seconds), limit)
    connection.sendall(stream.ask(work.key, peer_challenge, wanted))
    said = stream.read_verdict(work.key, peer_challenge, challenge, read_exactly(connection, stream.VERDICT_BYTES))
    if said is None:
        raise HostError(
            "speed_peer_unproven",
            f"cannot measure with {work.name}: it does not prove that it knows this order",
            remedy="somebody else may answer there: check address and secret",
        )
    if said is not Verdict.GO:
        code, why = _REFUSALS[said]
        raise HostError(
            code, f"cannot measure with {work.name}: {why}", remedy="try again in a minute; check the secret"
        )
    set_timeout(connection, STALL_S)
    return Stream(connection, work.key, peer_challenge, challenge, limit)


def _go(work: Work) -> None:
    until_s = time.monotonic() + work.seconds
    for each in work.opened:
        threading.Thread(target=_run, args=(work, each, until_s), daemon=True).start()


def _run(work: Work, each: Stream, until_s: float) -> None:
    try:
        (_receive if work.direction is Direction.DOWN else _send)(work, each, until_s)
    except HostError as error:
        work.error = work.error or error
    except OSError as error:
        work.error = work.error or _lost(work, error)
    each.is_done = True


def _receive(work: Work, each: Stream, until_s: float) -> None:
    buffer = bytearray(BUFFER_BYTES)
    while each.count < each.limit and time.monotonic() < until_s:
        got = each.connection.recv_into(buffer)
        if not got:
            raise _cut_off(work, each.count)
        each.count += got
    _mark(work)
    if each.count > each.limit:
        raise _lied(work, f"it sent {each.count} bytes, and {each.limit} were agreed")


def _send(work: Work, each: Stream, until_s: float) -> None:
    block = memoryview(os.urandom(BUFFER_BYTES))
    while each.count < each.limit and time.monotonic() < until_s:
        each.count += each.connection.send(block[: each.limit - each.count])
    each.acked = _acked(each)
    _mark(work)
    each.is_done = True
    each.connection.shutdown(socket.SHUT_WR)
    set_timeout(each.connection, REPORT_S)
    data = read_exactly(each.connection, stream.REPORT_BYTES)
    if not data:
        raise _cut_off(work, each.count)
    told = stream.read_report(each.key, each.peer_challenge, each.challenge, data)
    if told != each.count:
        raise _lied(work, f"{each.count} bytes went, and it says {'nothing credible' if told is None else told}")


def _mark(work: Work) -> None:
    work.mark = work.mark or (time.monotonic(), _total(work))


def _total(work: Work) -> int:
    if work.direction is Direction.DOWN:
        return sum(each.count for each in work.opened)
    return sum(_acked(each) for each in work.opened)


def _acked(each: Stream) -> int:
    """Bytes that the other side's kernel has acknowledged."""
    if each.is_done:
        return each.acked
    information = each.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(information) < _ACKED_AT + 8:
        return each.count
    (acked,) = struct.unpack_from("=Q", information, _ACKED_AT)
    return min(int(acked), each.count)


def _sample(work: Work) -> dict[str, Any]:
    """`is_over`: every stream has ended, reports included."""
    if work.error is not None:
        return _told(work.error)
    at_s, total = work.mark or (time.monotonic(), _total(work))
    return {
        "at_s": at_s,
        "bytes": total,
        "cpu_s": time.process_time(),
        "is_any_done": work.mark is not None,
        "is_over": threading.active_count() == 1,
    }


def _told(error: HostError) -> dict[str, Any]:
    problem = error.problem
    return {"error": {"code": problem.code, "message": problem.message, "remedy": problem.remedy}}


def _lost(work: Work, error: OSError) -> HostError:
    if isinstance(error, BlockingIOError | TimeoutError):
        return HostError(
            "speed_stalled",
            f"cannot measure with {work.name}: for {STALL_S:g} s nothing went {work.direction.value}",
            remedy="see whether the peer or the line is overloaded",
        )
    return HostError(
        "speed_cut_off",
        f"cannot measure with {work.name}: the connection broke ({error.strerror or error})",
        remedy="see the peer's log, and what is on the way",
    )


def _cut_off(work: Work, count: int) -> HostError:
    return HostError(
        "speed_cut_off",
        f"cannot measure with {work.name}: it ended after {count} bytes, before the time was over",
        remedy="see the peer's log, and what is on the way",
    )


def _lied(work: Work, why: str) -> HostError:
    return HostError(
        "speed_peer_lied",
        f"cannot believe the speed peer {work.name}: {why}",
        remedy="measure with another peer: kaalia speedtest --peer",
    )


if __name__ == "__main__":
    sys.exit(main())
