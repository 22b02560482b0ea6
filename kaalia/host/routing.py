"""The door to the kernel's routes, by rtnetlink: whose an address is. Needs no rights."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

_TIMEOUT_S = 5.0
_ANSWER_BYTES = 8192
# linux/rtnetlink.h, linux/netlink.h
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 0x1
_RTA_DST = 1
_OWN = frozenset({2, 3, 4})
"""RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST: as the packet filter's `addrtype` names what this machine listens at."""
_TYPE_OFFSET = 16 + 7


def is_own(address: IPv4Address | IPv6Address) -> bool:
    """Of this machine, on any interface. False also where no route leads there. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    words = struct.pack("=HH", 4 + len(address.packed), _RTA_DST) + address.packed
    body = struct.pack("=BBBBBBBBI", family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + words
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(struct.pack("=IHHII", 16 + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body)
        answer = kernel.recv(_ANSWER_BYTES)
    (kind,) = struct.unpack_from("=4xH", answer)
    if kind not in (_RTM_NEWROUTE, _NLMSG_ERROR):
        raise OSError(f"the kernel answers with a message of kind {kind}")
    return kind == _RTM_NEWROUTE and answer[_TYPE_OFFSET] in _OWN
