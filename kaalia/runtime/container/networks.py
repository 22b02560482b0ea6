"""What the engine says of contracts' networks: their bridges and subnets, and who in them is to be reached."""

from collections.abc import Mapping
from typing import Any

from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import machine_filter, owner, publication
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.rules import Enclosure

_BRIDGE = "com.docker.network.bridge.name"


def bridge_name(network_id: str) -> str:
    """Of a network that names none: Docker takes twelve digits of its id."""
    return f"br-{network_id[:12]}"


def subnets(network: Mapping[str, Any]) -> list[str]:
    return [str(config.get("Subnet", "")) for config in ((network.get("IPAM") or {}).get("Config") or [])]


async def enclosures(engine: DockerEngine, machine: str) -> tuple[Enclosure, ...]:
    """The networks of this machine's contracts, as they exist now. Raises WorkloadError."""
    found = [enclosure(network, machine) for network in await engine.networks([machine_filter(machine)])]
    return tuple(one for one in found if one is not None)


def enclosure(network: Mapping[str, Any], machine: str) -> Enclosure | None:
    """None: it is no contract's."""
    contract_id = owner(network.get("Labels"), machine)
    if contract_id is None or not (where := subnets(network)):
        return None
    bridge = (network.get("Options") or {}).get(_BRIDGE) or bridge_name(str(network["Id"]))
    return Enclosure(contract_id, str(bridge), where[0])


async def publications(engine: DockerEngine, machine: str) -> tuple[Publication, ...]:
    """What this machine's containers want published by kaalia, running or not. Raises WorkloadError.

    One that was renamed keeps its network and its ports; a copy, which has the labels too, has neither.
    """
    walled = {one.contract_id: one for one in await enclosures(engine, machine)}
    found = []
    for entry in await engine.containers(machine_filter(machine)):
        wanted = publication(entry.get("Labels"), machine)
        if wanted is not None and wanted[0] in walled and reading.has_network_of(entry, wanted[0]):
            found.append(Publication(walled[wanted[0]], *wanted[1:]))
    return tuple(found)
