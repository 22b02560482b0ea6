"""A network namespace for one test: links, addresses and firewall are its own, and end with it. Needs root."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def is_possible() -> bool:
    """Inside scripts/sandbox, where nothing of the machine's own network can be meant."""
    return "KAALIA_TEST_NAMESPACES" in os.environ


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts meanwhile, live in a new namespace with nothing but loopback."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(_libc.unshare(CLONE_NEWNET))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            _check(_libc.setns(home, CLONE_NEWNET))
    finally:
        os.close(home)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "cannot change the network namespace")
