"""Which host ports and which subnet a contract gets. What is taken and every random number come as arguments.

A port is asked for by its number in the container and answered by a random one of the machine's range. Numbers
from 70000 on ask for an identity port: the container sees the very number that the outside uses.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network

from kaalia.contracts.dockerflags import IDENTITY_PORT_MIN, MAX_PORTS
from kaalia.errors import ContractError
from kaalia.model.machine import PortRange
from kaalia.model.workload import PortBinding, PortRequest, Protocol

SUBNET_PREFIX = 28
"""14 addresses: gateway, container, and room for a sandbox."""

IPV6_SUBNET_PREFIX = 64
_IPV6_POOL_PREFIX = 36
"""8 bits that say ULA (RFC 4193), 28 of the machine; 28 of an IPv4 subnet follow."""

Taken = Collection[tuple[int, Protocol]]


def wanted(asked: Iterable[PortRequest], exposed: Iterable[PortRequest]) -> tuple[PortRequest, ...]:
    """What the renter asked for, then what the image exposes, each once; exposed ports beyond 64 are left out."""
    requests = list(dict.fromkeys(asked))
    extra = [request for request in dict.fromkeys(exposed) if request not in requests]
    return (*requests, *extra[: max(0, MAX_PORTS - len(requests))])


def allocate(
    requests: Sequence[PortRequest],
    port_range: PortRange,
    taken: Taken,
    randbelow: Callable[[int], int],
    kept: Iterable[PortBinding] = (),
) -> tuple[PortBinding, ...]:
    """One binding for each request. `kept`: bindings of the same contract, used again where they fit.

    Raises ContractError too_many_ports or ports_exhausted.
    """
    if len(requests) > MAX_PORTS:
        raise ContractError(
            "too_many_ports",
            f"cannot open {len(requests)} ports: {MAX_PORTS} is the most",
            remedy=f"ask for {MAX_PORTS} ports or fewer",
        )
    old = {(binding.requested, binding.protocol): binding for binding in kept}
    free = {protocol: _free(port_range, taken, protocol, old.values()) for protocol in Protocol}
    inner = {(request.container_port, request.protocol) for request in requests}
    bindings = []
    for request in requests:
        binding = old.get((request.container_port, request.protocol))
        if binding is None or (binding.host_port, binding.protocol) in taken or binding.host_port not in port_range:
            host_port = _draw(free[request.protocol], request, inner, randbelow)
            if host_port is None:
                raise _exhausted(port_range, requests)
            binding = _bind(request, host_port)
        bindings.append(binding)
    return tuple(bindings)


def next_subnet(pool: str, taken: Iterable[str]) -> str:
    """The first /28 of `pool` that overlaps no network of `taken`: claims, and the routes of the machine.

    Raises ContractError subnets_exhausted.
    """
    network = IPv4Network(pool)
    used = [
        other
        for other in (IPv4Network(cidr, strict=False) for cidr in taken)
        if other.prefixlen and network.overlaps(other)
    ]
    small = {other for other in used if other.prefixlen == SUBNET_PREFIX}
    large = [other for other in used if other.prefixlen != SUBNET_PREFIX]
    for subnet in network.subnets(new_prefix=SUBNET_PREFIX):
        if subnet not in small and not any(subnet.overlaps(other) for other in large):
            return str(subnet)
    raise ContractError(
        "subnets_exhausted",
        f"cannot give a subnet: all /{SUBNET_PREFIX} of {pool} are taken",
        remedy="configure a larger pool of addresses that the machine does not route",
    )


def address_in(subnet: str) -> str:
    """Where the contract's workload is in its network: the first address is the gateway."""
    return str(IPv4Network(subnet)[2])


def ipv6_pool(machine: str) -> str:
    """Where all IPv6 networks of a machine's contracts are. `machine`: its name, unique on earth."""
    digest = int.from_bytes(hashlib.sha256(machine.encode()).digest()[:4], "big") >> 4
    return str(IPv6Network(((0xFD << 28 | digest) << (128 - _IPV6_POOL_PREFIX), _IPV6_POOL_PREFIX)))


def ipv6_subnet(machine: str, subnet: str) -> str:
    """The /64 that goes with a contract's IPv4 network: whoever has claimed that has claimed this."""
    base = int(IPv6Network(ipv6_pool(machine)).network_address)
    number = int(IPv4Network(subnet).network_address) >> (32 - SUBNET_PREFIX)
    return str(IPv6Network((base | number << (128 - IPV6_SUBNET_PREFIX), IPV6_SUBNET_PREFIX)))


def ipv4_subnet(subnet6: str) -> str:
    """The IPv4 network that an IPv6 one goes with."""
    number = int(IPv6Network(subnet6).network_address) >> (128 - IPV6_SUBNET_PREFIX) & (1 << SUBNET_PREFIX) - 1
    return str(IPv4Network((number << (32 - SUBNET_PREFIX), SUBNET_PREFIX)))


def ipv6_address_in(subnet: str) -> str:
    """Where the contract's workload is in its IPv6 network: the first address is the gateway."""
    return str(IPv6Network(subnet)[2])


def _free(port_range: PortRange, taken: Taken, protocol: Protocol, kept: Iterable[PortBinding]) -> list[int]:
    held = {port for port, its_protocol in taken if its_protocol is protocol}
    held.update(binding.host_port for binding in kept if binding.protocol is protocol)
    return [port for port in range(port_range.first, port_range.last + 1) if port not in held]


def _draw(
    free: list[int], request: PortRequest, inner: Collection[tuple[int, Protocol]], randbelow: Callable[[int], int]
) -> int | None:
    """Take a random free port out of `free`; an identity port must not be a number the container uses already."""
    is_identity = request.container_port >= IDENTITY_PORT_MIN
    fits = [port for port in free if (port, request.protocol) not in inner] if is_identity else free
    if not fits:
        return None
    port = fits[randbelow(len(fits))]
    free.remove(port)
    return port


def _bind(request: PortRequest, host_port: int) -> PortBinding:
    is_identity = request.container_port >= IDENTITY_PORT_MIN
    inner = host_port if is_identity else request.container_port
    return PortBinding(request.container_port, inner, host_port, request.protocol)


def _exhausted(port_range: PortRange, requests: Sequence[PortRequest]) -> ContractError:
    return ContractError(
        "ports_exhausted",
        f"cannot open {len(requests)} ports: the range {port_range.first}-{port_range.last} has too few free ones",
        remedy="configure a larger port range, or end other contracts",
    )
