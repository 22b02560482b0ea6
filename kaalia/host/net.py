"""Addresses and ports of this machine. What reaches it from outside only the marketplace can tell.

`root` is the file system that holds /proc; tests give their own.
"""

import errno
import ipaddress
import json
import socket
import sys
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host.kernel import read_text, unreadable
from kaalia.host.system import addresses
from kaalia.model.workload import Protocol

ROOT = Path("/")

_SOCKET_TYPES = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
_ROUTE_UP = 0x1
_RESOLVER_FILES = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
"""Docker reads the second one where the first names systemd's own resolver only."""


def local_ips(root: Path = ROOT) -> tuple[str, ...]:
    """IPv4 addresses by which others reach this machine, each once: not loopback, not bridges of its own containers."""
    return tuple(dict.fromkeys(address for interface, address in addresses() if not is_inner_bridge(interface, root)))


def is_inner_bridge(interface: str, root: Path = ROOT) -> bool:
    """True for a bridge that has no way out of this machine, such as docker0: no member is a card, a bond or a VLAN."""
    folder = root / "sys/class/net"
    if not (folder / interface / "bridge").is_dir():
        return False
    members = folder / interface / "brif"
    return not any(_leads_out(folder / member.name) for member in members.iterdir()) if members.is_dir() else True


def _leads_out(interface: Path) -> bool:
    if (interface / "device").exists():
        return True
    try:
        kind = read_text(interface / "uevent")
    except HostError:  # it went away
        return False
    return "DEVTYPE=vlan" in kind or "DEVTYPE=bond" in kind


def default_interface(root: Path = ROOT) -> str:
    """The interface of the default route with the lowest metric. Raises HostError `unreadable` when there is none."""
    routes: list[tuple[int, str]] = []
    for line in read_text(root / "proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[1] == "00000000" and words[7] == "00000000" and int(words[3], 16) & _ROUTE_UP:
            routes.append((int(words[6]), words[0]))
    if not routes:
        raise unreadable("the default route", "this machine has none")
    return min(routes)[1]


def default_address(root: Path = ROOT) -> str:
    """The IPv4 address of the default route's interface. Raises HostError `unreadable`."""
    interface = default_interface(root)
    for name, address in addresses():
        if name == interface:
            return address
    raise unreadable("the address of the default route", f"interface {interface} has no IPv4 address")


def default_gateway(root: Path = ROOT) -> str | None:
    """The IPv4 address of the next hop of the default route; None: there is none, or it has no address."""
    try:
        interface = default_interface(root)
        lines = read_text(root / "proc/net/route").splitlines()[1:]
    except HostError:
        return None
    for words in (line.split() for line in lines):
        if len(words) >= 8 and words[0] == interface and words[1] == words[7] == "00000000":
            address = ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(words[2]), sys.byteorder))
            return str(address) if int(address) else None
    return None


def routed_networks(root: Path = ROOT) -> tuple[str, ...]:
    """The IPv4 networks that this machine routes, as CIDR, without the default route."""
    networks: list[str] = []
    for line in read_text(root / "proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[7] != "00000000" and int(words[3], 16) & _ROUTE_UP:
            # The kernel prints its big-endian words as the machine holds them; masks never mix.
            address, mask = (int.from_bytes(bytes.fromhex(words[at]), sys.byteorder) for at in (1, 7))
            networks.append(f"{ipaddress.IPv4Address(address)}/{mask.bit_count()}")
    return tuple(dict.fromkeys(networks))


def resolvers(root: Path = ROOT, version: int = 4) -> tuple[str, ...]:
    """Addresses of the name servers that Docker asks for its containers, other than on loopback, of one IP version.

    From the machine's resolv.conf and Docker's daemon.json, whichever of them counts; what cannot be read names none.
    """
    words = [line.split() for name in _RESOLVER_FILES for line in _text(root / name).splitlines()]
    named = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    try:
        settings = json.loads(_text(root / "etc/docker/daemon.json"))
        named += [str(one) for one in settings.get("dns", [])]
    except (ValueError, AttributeError, TypeError):
        pass
    return tuple(dict.fromkeys(one for one in named if _is_outer(one, version)))


def connection_table(root: Path = ROOT) -> int | None:
    """How many connections the kernel follows at most (nf_conntrack_max); None: it follows none yet."""
    text = _text(root / "proc/sys/net/netfilter/nf_conntrack_max").strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except HostError:
        return ""


def _is_outer(text: str, version: int) -> bool:
    """Containers cannot ask one of a link of the machine's (fe80::1%eth0)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == version and not (address.is_loopback or (version == 6 and address.is_link_local))


def is_public(address: str) -> bool:
    """True for an address that the internet can route to."""
    return ipaddress.ip_address(address).is_global


def is_port_free(port: int, protocol: Protocol) -> bool:
    """Whether `port` can be bound on all IPv4 addresses right now. It may be taken soon: claim it in the store.

    Like Docker's proxy it allows a port whose old connections still linger (SO_REUSEADDR, TCP only: for UDP the option
    would share the port).
    """
    return _is_free(socket.AF_INET, port, protocol)


def is_ipv6_port_free(port: int, protocol: Protocol) -> bool:
    """The same for all IPv6 addresses; True where the kernel has none."""
    return not socket.has_ipv6 or _is_free(socket.AF_INET6, port, protocol)


def _is_free(family: socket.AddressFamily, port: int, protocol: Protocol) -> bool:
    try:
        probe = socket.socket(family, _SOCKET_TYPES[protocol])
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return True
        raise unreadable(f"whether port {port}/{protocol} is free", str(error)) from error
    with probe:
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol is Protocol.TCP:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Nothing listens, and renters' ports are on all addresses.
            probe.bind(("::" if family is socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104
            if protocol is Protocol.TCP:
                probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise unreadable(f"whether port {port}/{protocol} is free", str(error)) from error
    return True


def outgoing_ports(root: Path = ROOT) -> range:
    """The ports that the kernel gives to outgoing connections by itself. Raises HostError `unreadable`."""
    text = read_text(root / "proc/sys/net/ipv4/ip_local_port_range")
    return _port_range("-".join(text.split()), text)


def reserved_ports(root: Path = ROOT) -> tuple[range, ...]:
    """Those of them that it leaves out, as set by net.ipv4.ip_local_reserved_ports. Raises HostError `unreadable`."""
    text = read_text(root / "proc/sys/net/ipv4/ip_local_reserved_ports")
    return tuple(_port_range(part, text) for part in text.split(",") if part)


def _port_range(part: str, text: str) -> range:
    first, _, last = part.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise unreadable("the kernel's ranges of ports", f"{text[:80]!r} is none") from None
