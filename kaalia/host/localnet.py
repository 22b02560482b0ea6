"""The door to the kernel's network links, by rtnetlink: `/proc/sys` is read-only for services."""

import os
import socket
import struct
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text

_TIMEOUT_S = 5.0
"""Docker holds the kernel's lock on links for tens of milliseconds at a time."""
_ANSWER_BYTES = 4096
# linux/rtnetlink.h, linux/if_link.h, linux/ip.h
_RTM_SETLINK = 19
_NLMSG_ERROR = 2
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_IFLA_AF_SPEC = 26
_IFLA_INET_CONF = 1
_IPV4_DEVCONF_ROUTE_LOCALNET = 26


def routes_localnet(interface: str, root: Path = Path("/")) -> bool | None:
    """Whether packets from and to 127.0.0.0/8 may use this interface; None: there is no such interface."""
    try:
        return read_text(root / "proc/sys/net/ipv4/conf" / interface / "route_localnet").strip() == "1"
    except HostError:
        return None


def route_localnet(interface: str) -> None:
    """Let them. Raises HostError `link_refused`."""
    value = _attribute(_IPV4_DEVCONF_ROUTE_LOCALNET, struct.pack("=I", 1))
    spec = _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET, _attribute(_IFLA_INET_CONF, value)))
    try:
        body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, socket.if_nametoindex(interface), 0, 0) + spec
        _ask(struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _NLM_F_REQUEST_ACK, 1, 0) + body)
    except OSError as error:
        raise HostError(
            "link_refused",
            f"cannot let clients on this machine use interface {interface}: {error.strerror or error}",
            remedy=f"as root: sysctl -w net.ipv4.conf.{interface}.route_localnet=1",
        ) from error


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _ask(message: bytes) -> None:
    """Send, and wait for the kernel's word on it. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(message)
        answer = kernel.recv(_ANSWER_BYTES)
    kind, code = struct.unpack_from("=4xH10xi", answer)
    if kind == _NLMSG_ERROR and code != 0:
        raise OSError(-code, os.strerror(-code))
