"""What the engine says of contracts' networks: their bridges and subnets, and who in them is to be reached."""

import logging
from collections.abc import Mapping
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import machine_filter, owner, publication
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6, dual
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.rules import Enclosure

log = logging.getLogger(__name__)

_BRIDGE = "com.docker.network.bridge.name"


def bridge_name(network_id: str) -> str:
    """Of a network that names none: Docker takes twelve digits of its id."""
    return f"br-{network_id[:12]}"


def subnets(network: Mapping[str, Any]) -> list[str]:
    """Of IPv4: what a contract has claimed."""
    return [one for one in _all_subnets(network) if ":" not in one]


def subnet6(network: Mapping[str, Any]) -> str:
    """Of IPv6; "": none."""
    return next((one for one in _all_subnets(network) if ":" in one), "")


def _all_subnets(network: Mapping[str, Any]) -> list[str]:
    return [str(config.get("Subnet", "")) for config in ((network.get("IPAM") or {}).get("Config") or [])]


async def make_network(engine: DockerEngine, body: dict[str, Any], ipv6: NetworkIpv6 | None) -> tuple[str, str]:
    """Its id, and the IPv6 network that it has beside that of `body`; "": the engine refuses that. WorkloadError."""
    (subnet,) = subnets(body)
    six = await ipv6.subnet(subnet) if ipv6 is not None else ""
    try:
        return await engine.create_network(dual(body, six)), six
    except WorkloadError as error:
        if not six or error.code in {"network_exists", "engine_unavailable"}:
            raise
        log.warning("network %s gets no IPv6: %s", body["Name"], error.problem.message)
    return await engine.create_network(body), ""


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
    return Enclosure(contract_id, str(bridge), where[0], subnet6(network))


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
