"""Blocking sockets whose time-outs the kernel keeps: Python's own would cost a poll for each piece of bytes."""

import socket
import struct

BUFFER_BYTES = 1024 * 1024
"""Of one call: large enough that the interpreter's lock is held for a small part of the time."""


def set_timeout(connection: socket.socket, timeout_s: float) -> None:
    """A call that gets nothing done for so long raises BlockingIOError."""
    connection.settimeout(None)
    value = struct.pack("ll", int(timeout_s), round(timeout_s % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, value)


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """Fewer bytes when the other side ended. Raises OSError."""
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)
