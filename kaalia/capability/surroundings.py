"""Where this machine stands in its network: what tells a closed port from a provider's translation."""

import asyncio
from pathlib import Path

from kaalia.capability import network
from kaalia.contracts.remedies import Surroundings
from kaalia.errors import HostError
from kaalia.host import natpmp, net


async def read(root: Path = net.ROOT) -> Surroundings:
    """What cannot be read is absent; takes a second at most."""
    local_ips, routed_ip, router_ip = await asyncio.to_thread(_local, root)
    wan_ip = await natpmp.outer_address(router_ip) if router_ip else None
    return Surroundings(local_ips, routed_ip, router_ip, wan_ip)


def _local(root: Path) -> tuple[tuple[str, ...], str | None, str | None]:
    try:
        routed_ip = network.routed_address(root)
    except HostError:
        routed_ip = None
    return (*network.local_ips(root), "127.0.0.1"), routed_ip, net.default_gateway(root)
