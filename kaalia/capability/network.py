"""Addresses and ports that reach this machine. Refuses to call a private address public."""

import ipaddress
from dataclasses import replace
from pathlib import Path

from kaalia.capability.gaps import Gaps
from kaalia.errors import HostError
from kaalia.host import ipv6, net
from kaalia.model.machine import MachineReport, Network, PortRange
from kaalia.model.reach import PortMap
from kaalia.model.speed import MeasuredSpeed

PUBLIC_IP = "network.public_ip"
"""The field's name in `missing`."""


def collect(public_ip: str | None, port_range: PortRange, root: Path, gaps: Gaps) -> Network:
    """`public_ip`: from the configuration, where it wins; else the address of the default route if it is public."""
    address = public_ip or gaps.read(PUBLIC_IP, lambda: _routed_address(root))
    return Network(address, local_ips(root), port_range)


def local_ips(root: Path = net.ROOT) -> tuple[str, ...]:
    """By which others reach this machine: of IPv4; where its only way out is by IPv6, those first."""
    four = net.local_ips(root)
    return (*(str(one.address) for one in ipv6.addresses(root)), *four) if ipv6.is_only(root) else four


def routed_address(root: Path = net.ROOT) -> str:
    """Of the default route's interface: of IPv4, else of IPv6. Raises HostError `unreadable`."""
    if ipv6.is_only(root) and (address := ipv6.default_address(root)):
        return address
    return net.default_address(root)


def with_outside(
    report: MachineReport, found: PortMap | None, told_address: str | None, measured: MeasuredSpeed | None = None
) -> MachineReport:
    """With what only the outside can tell: the address behind a router, the ports proven there, the line's speed.

    What was proven of another range, or at another address than renters are told, does not count. Where renters are
    sent, an answer that anybody on the way could have written does not decide.
    """
    network = replace(report.network, speed=measured)
    # Renters' ports are of IPv4, whatever way the machine takes to its marketplace, unless it has none.
    version = 6 if ":" in next(iter(network.local_ips), "") else 4
    outer = told_address if told_address and _is_public(told_address, version) else _vouched_for(found)
    missing = report.missing
    if network.public_ip is None and outer is not None and _is_public(outer, version):
        network = replace(network, public_ip=outer)
        missing = tuple(entry for entry in missing if entry.field != PUBLIC_IP)
    if found is not None and (found.port_range, found.address) == (network.port_range, network.public_ip):
        network = replace(network, proven=found.proven)
    return replace(report, network=network, missing=missing)


def _vouched_for(found: PortMap | None) -> str | None:
    """The address that the prober sees, if nobody else could have said so: a marketplace's URL is of TLS too."""
    return found.seen_address if found is not None and found.prober.startswith("https://") else None


def _is_public(text: str, version: int) -> bool:
    address = ipaddress.ip_address(text)
    return address.version == version and address.is_global


def _routed_address(root: Path) -> str:
    address = routed_address(root)
    if not net.is_public(address):
        raise HostError(
            "address_not_public",
            f"cannot tell the public address: {address} on the default route is private (a router translates it); "
            "set ports.public_ip in the configuration",
        )
    return address
