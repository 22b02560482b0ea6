"""Addresses and ports that reach this machine. Refuses to call a private address public."""

from pathlib import Path

from kaalia.capability.gaps import Gaps
from kaalia.errors import HostError
from kaalia.host import net
from kaalia.model.machine import Network, PortRange


def collect(public_ip: str | None, port_range: PortRange, root: Path, gaps: Gaps) -> Network:
    """`public_ip`: from the configuration, where it wins; else the address of the default route if it is public."""
    address = public_ip or gaps.read("network.public_ip", lambda: _routed_address(root))
    return Network(address, net.local_ips(root), port_range)


def _routed_address(root: Path) -> str:
    address = net.default_address(root)
    if not net.is_public(address):
        raise HostError(
            "address_not_public",
            f"cannot tell the public address: {address} on the default route is private (a router translates it); "
            "set ports.public_ip in the configuration",
        )
    return address
