"""Which networks are not the internet, for the walls around tenants and the way out of cells alike. Pure."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CLOSED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
)
"""Not the internet (IANA's registry of special-purpose addresses): LANs, carriers' NAT, link-local with the metadata
services of clouds (168.63.129.16: Azure's), benchmarks. The blocks for documentation are left out: nobody has them."""
NEVER = ("224.0.0.0/4", "240.0.0.0/4")
"""Multicast, and the reserved block with the broadcast address: no allow-list opens them."""
CLOSED_IPV6 = (
    "::/3",
    "4000::/2",
    "8000::/1",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
)
"""All that is outside of 2000::/3, the internet of today: ::1, IPv4 in IPv6 and by NAT64 (::ffff:0:0/96, 64:ff9b::/96,
64:ff9b:1::/48), fc00::/7 with the metadata services of clouds, fe80::/10, fec0::/10. And in it what leads elsewhere:
Teredo, benchmarks and overlays in 2001::/23, documentation, 6to4."""
NEVER_IPV6 = ("ff00::/8",)

_CLOSED = tuple(map(ipaddress.ip_network, (*CLOSED, *CLOSED_IPV6)))
_NEVER = tuple(map(ipaddress.ip_network, (*NEVER, *NEVER_IPV6)))
_PORTS = frozenset({80, 443})
_FIRST_OF_USERS = 1024


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Networks of a machine, of both families."""

    allowed: tuple[Network, ...] = ()
    """That the owner opened to tenants (`network.allow`)."""
    pools: tuple[Network, ...] = ()
    """Of all its tenants."""
    lan: tuple[Network, ...] = ()
    """Which it is on the link of, by addresses of the internet."""

    @classmethod
    def of(cls, allowed: Iterable[str], pools: Iterable[str], lan: Iterable[str]) -> "Surroundings":
        """Raises ValueError."""
        return cls(*(tuple(map(ipaddress.ip_network, one)) for one in (allowed, pools, lan)))


def plain(address: Address) -> Address:
    """IPv4 that is written as IPv6 is IPv4, to the kernel too."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def is_reachable(address: Address, port: int, around: Surroundings, *, is_own: bool) -> bool:
    """Whether a cloud may be there, in the order of the walls (docs/networking.md). `is_own`: of the machine itself."""
    address = plain(address)
    if (port not in _PORTS and port < _FIRST_OF_USERS) or address.is_unspecified:
        return False
    if _is_in(address, (*_NEVER, *around.pools)):
        return False
    if _is_in(address, (one for one in around.allowed if one.prefixlen == one.max_prefixlen)):
        return True
    if is_own:
        return False
    return _is_in(address, around.allowed) or not _is_in(address, (*around.lan, *_CLOSED))


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == one.version and address in one for one in networks)
