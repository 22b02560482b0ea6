"""What the engine says of contracts' networks: their bridges and subnets."""

from collections.abc import Mapping
from typing import Any

from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import machine_filter, owner
from kaalia.runtime.sandbox.rules import Enclosure

_BRIDGE = "com.docker.network.bridge.name"


def bridge_name(network_id: str) -> str:
    """Of a network that names none: Docker takes twelve digits of its id."""
    return f"br-{network_id[:12]}"


def subnets(network: Mapping[str, Any]) -> list[str]:
    return [str(config.get("Subnet", "")) for config in ((network.get("IPAM") or {}).get("Config") or [])]


async def enclosures(engine: DockerEngine, machine: str) -> tuple[Enclosure, ...]:
    """The networks of this machine's contracts, as they exist now. Raises WorkloadError."""
    found = []
    for network in await engine.networks([machine_filter(machine)]):
        contract_id = owner(network.get("Labels"), machine)
        if contract_id is not None and (where := subnets(network)):
            bridge = (network.get("Options") or {}).get(_BRIDGE) or bridge_name(str(network["Id"]))
            found.append(Enclosure(contract_id, str(bridge), where[0]))
    return tuple(found)
