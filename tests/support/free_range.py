"""Ports in a row that nobody else uses: not the kernel for connections that go out, nor tests that run beside these."""

import random
import socket

from kaalia.model.machine import PortRange

FIRST, LAST = 24000, 29999
"""Below the kernel's own (ip_local_port_range, from 32768 on); other tests have ranges of their own below and above."""
_held: list[socket.socket] = []
"""Names that this process holds until its end, one for each range: others of the same network see them."""


def free_range(size: int) -> PortRange:
    """Free now for TCP and UDP, and no other process gets it by this function while this one lives."""
    for first in random.sample(range(FIRST, LAST + 1 - size, size), (LAST + 1 - FIRST) // size - 1):
        found = PortRange(first, first + size - 1)
        if _hold(f"\0kaalia-test-ports-{size}-{first}") and all(map(_is_free, range(found.first, found.last + 1))):
            return found
    raise AssertionError(f"no {size} free ports from {FIRST} to {LAST}")


def _hold(name: str) -> bool:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(name)
    except OSError:
        sock.close()
        return False
    _held.append(sock)
    return True


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True
