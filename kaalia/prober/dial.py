"""Tries one port of one address, by TCP or UDP, and says what happened. Opens no more than it is told to."""

import asyncio
import contextlib
import errno
import secrets
import socket
import struct

from kaalia.model.reach import Outcome
from kaalia.model.workload import Protocol
from kaalia.wire import probe
from kaalia.wire.probe import MESSAGE_BYTES, PART_BYTES, ProbeResult, ProbeTarget

CONNECT_S = 3.5
"""Linux repeats a lost SYN after 1 s and after 3 s: two of them may be lost."""
ANSWER_S = 2.5
SENDINGS_AT_S = (0.0, 0.4, 1.0, 2.0)
"""A datagram that nobody answered is sent again at these moments: losing four in a row is no accident."""
UDP_S = 3.5
LONGEST_S = CONNECT_S + ANSWER_S
"""Of one port."""

_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})
_PROHIBITED = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO})
CUT_OFF = frozenset({errno.EPERM, errno.EACCES, errno.ENETUNREACH})
"""A firewall of this machine lets nothing out, or it has no way there. The first two are never told by others."""
_CUT = struct.pack("ii", 1, 0)
"""Ended by a reset: routers forget such a connection after 10 s, one that was closed in good order after 120 s."""
_OWN = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES}
)
"""What this machine lacks: it says nothing of the other one."""


async def dial(address: str, target: ProbeTarget, nonce: bytes) -> ProbeResult:
    """Takes 6 s at most; raises nothing of the network, but OSError for what this machine lacks: sockets, a way."""
    challenge = secrets.token_bytes(PART_BYTES)
    if target.protocol is Protocol.UDP:
        outcome, data = await _datagrams(address, target, nonce, challenge)
    else:
        outcome, data = await _connection(address, target, nonce, challenge)
    if outcome is not Outcome.ANSWERED:
        return ProbeResult(target.port, target.protocol, outcome)
    found = probe.read_answer(nonce, target.protocol, challenge, data)
    if found is None:
        return ProbeResult(target.port, target.protocol, Outcome.OTHER)
    return ProbeResult(
        target.port, target.protocol, Outcome.ANSWERED, challenge.hex(), found.proof.hex(), answered_port=found.port
    )


async def _connection(address: str, target: ProbeTarget, nonce: bytes, challenge: bytes) -> tuple[Outcome, bytes]:
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(address, target.port, limit=4096)
    except (OSError, TimeoutError) as error:
        return _meaning(error, address), b""
    try:
        if target.connect_only:
            return Outcome.CONNECTED, b""
        writer.write(probe.question(nonce, target.protocol, target.port, challenge))
        async with asyncio.timeout(ANSWER_S):
            return Outcome.ANSWERED, await reader.readexactly(MESSAGE_BYTES)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return Outcome.OTHER, b""  # it took the connection, and has nothing to say
    finally:
        if not target.connect_only:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CUT)
        writer.transport.abort()


async def _datagrams(address: str, target: ProbeTarget, nonce: bytes, challenge: bytes) -> tuple[Outcome, bytes]:
    if target.connect_only:
        return Outcome.SILENT, b""  # a datagram would be one that its owner gets
    text = probe.question(nonce, target.protocol, target.port, challenge)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.connect((address, target.port))  # so that a refusal reaches this socket, and strangers do not
            return Outcome.ANSWERED, await _repeat(sender, text)
        except (OSError, TimeoutError) as error:
            return _meaning(error, address), b""


async def _repeat(sender: socket.socket, text: bytes) -> bytes:
    """Send until something comes back. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number, _ in enumerate(SENDINGS_AT_S, 1):
        await loop.sock_sendall(sender, text)
        until_s = began_s + (*SENDINGS_AT_S, UDP_S)[number]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - loop.time())):
                return await loop.sock_recv(sender, 2 * MESSAGE_BYTES)
    raise TimeoutError


def _meaning(error: Exception, address: str) -> Outcome:
    if isinstance(error, OSError) and error.errno in _OWN:
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENETUNREACH:
        _check_way(address)
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return Outcome.REFUSED
    if isinstance(error, OSError) and error.errno in _PROHIBITED:
        return Outcome.PROHIBITED
    return Outcome.SILENT


def _check_way(address: str) -> None:
    """A router far away may say "network unreachable" too (ICMP). Raises OSError when this machine has no way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as tried:
        tried.setblocking(False)
        tried.connect((address, probe.FIRST_PORT))  # sends nothing, only looks for a route
