"""News of this machine's addresses and routes, from the kernel's own multicast (netlink(7), rtnetlink(7))."""

import asyncio
import contextlib
import errno
import socket

from kaalia.errors import HostError

_GROUPS = 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE."""
_MESSAGE_BYTES = 65536


class LinkNews:
    """A bell of the kernel's: it says that something changed, not what. Needs no privilege."""

    def __init__(self) -> None:
        """Raises HostError `netlink_failed`."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.setblocking(False)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise HostError(
                "netlink_failed", f"cannot follow the addresses of this machine: {error.strerror or error}"
            ) from error

    async def next(self) -> None:
        """Wait for news. Those that come while nobody waits are kept, or counted as one."""
        try:
            await asyncio.get_running_loop().sock_recv(self._socket, _MESSAGE_BYTES)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # so much news that some were dropped
                raise

    def forget(self) -> None:
        """Drop what has come until now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(_MESSAGE_BYTES)
                except BlockingIOError:
                    raise
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.close()
