"""IPv6 of this machine: addresses, routes, and whether containers can have it. From the kernel's own lists.

`root` is the file system that holds /proc; tests give their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text
from kaalia.host.net import ROOT, is_inner_bridge
from kaalia.host.net import default_address as default_ipv4_address

INTERNET = IPv6Network("2000::/3")
_LOCAL = IPv6Network("fc00::/7")
# linux/if_addr.h, linux/ipv6_route.h
_UNSETTLED = 0x08 | 0x40
_PERMANENT = 0x80
_ROUTE_UP, _ROUTE_GATEWAY, _ROUTE_REJECT = 0x1, 0x2, 0x200
_ROUTE_BY_KERNEL = 0x00040000
"""Of a router's advertisement that the kernel took itself, not a service such as NetworkManager."""
_ROUTE_LOCAL = 0x80000000
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True)
class Address:
    interface: str
    address: IPv6Address
    flags: int


@dataclass(frozen=True, slots=True)
class Route:
    interface: str
    network: IPv6Network
    metric: int
    flags: int

    @property
    def is_default(self) -> bool:
        return self.network.prefixlen == 0


def addresses(root: Path = ROOT) -> tuple[Address, ...]:
    """Those by which others reach this machine: of the internet or ULA, not of bridges of its own containers."""
    return tuple(
        one
        for one in _addresses(root)
        if one.interface != _LOOPBACK
        and (one.address in INTERNET or one.address in _LOCAL)
        and not one.flags & _UNSETTLED
        and not is_inner_bridge(one.interface, root)
    )


def is_only(root: Path = ROOT) -> bool:
    """The machine's way out is by IPv6 alone: it has no default route by IPv4, or no address there."""
    if default_address(root) is None:
        return False
    try:
        return not default_ipv4_address(root)
    except HostError:
        return True


def default_interface(root: Path = ROOT) -> str | None:
    """The interface of the default route with the lowest metric; None: there is none."""
    found = [(one.metric, one.interface) for one in _routes(root) if one.is_default]
    return min(found)[1] if found else None


def default_address(root: Path = ROOT) -> str | None:
    """The address of the default route's interface, one of the internet first, one that lasts before one that does not;
    None: there is none.
    """
    interface = default_interface(root)
    found = [one for one in addresses(root) if one.interface == interface]
    found.sort(key=lambda one: (one.address not in INTERNET, not one.flags & _PERMANENT))
    return str(found[0].address) if found else None


def routed_networks(root: Path = ROOT) -> tuple[str, ...]:
    """The networks that this machine routes, as CIDR, without the default route and what every link has."""
    found = (one.network for one in _routes(root) if not one.is_default)
    return tuple(dict.fromkeys(str(one) for one in found if one.subnet_of(INTERNET) or one.subnet_of(_LOCAL)))


def lan_networks(root: Path = ROOT) -> tuple[str, ...]:
    """The networks of the internet's addresses that this machine is on: its neighbours there are the LAN.

    Those on bridges of the owner's own containers and VMs too. Contracts' networks have local addresses.
    """
    found = (
        one.network
        for one in _routes(root)
        if not one.flags & _ROUTE_GATEWAY and 16 <= one.network.prefixlen < 128 and one.network.subnet_of(INTERNET)
    )
    return tuple(sorted({str(one) for one in found}))


def lost_by_forwarding(root: Path = ROOT) -> str | None:
    """An interface whose addresses and routes the kernel lets expire once it forwards IPv6; None: there is none.

    A machine that forwards takes routers' advertisements only with `accept_ra` 2. Docker switches forwarding on.
    """
    if _setting(root, "all", "forwarding") != "0":
        return None
    by_kernel = {one.interface for one in _routes(root) if one.flags & _ROUTE_BY_KERNEL}
    return next((one for one in sorted(by_kernel) if _setting(root, one, "accept_ra") == "1"), None)


def _addresses(root: Path) -> Iterator[Address]:
    for words in _lines(root / "proc/net/if_inet6"):
        if len(words) == 6:
            yield Address(words[5], IPv6Address(bytes.fromhex(words[0])), int(words[4], 16))


def _routes(root: Path) -> Iterator[Route]:
    """Routes to somewhere else: not the machine's own addresses, nothing refused."""
    for words in _lines(root / "proc/net/ipv6_route"):
        if len(words) == 10 and words[9] != _LOOPBACK:
            route = Route(
                words[9],
                IPv6Network((bytes.fromhex(words[0]), int(words[1], 16)), strict=False),
                int(words[5], 16),
                int(words[8], 16),
            )
            if route.flags & _ROUTE_UP and not route.flags & (_ROUTE_REJECT | _ROUTE_LOCAL):
                yield route


def _lines(path: Path) -> list[list[str]]:
    """None where the kernel has no IPv6."""
    try:
        return [line.split() for line in read_text(path).splitlines()]
    except HostError:
        return []


def _setting(root: Path, interface: str, name: str) -> str:
    try:
        return read_text(root / "proc/sys/net/ipv6/conf" / interface / name).strip()
    except HostError:
        return ""
