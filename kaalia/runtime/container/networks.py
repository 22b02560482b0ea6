"""What the engine says of contracts' networks: their bridges and subnets, and who in them is to be reached."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.labels import machine_filter, owner, publication, sandbox_of
from kaalia.runtime.sandbox import pauses
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.rules import Enclosure

_BRIDGE = "com.docker.network.bridge.name"


def bridge_name(network_id: str) -> str:
    """Of a network that names none: Docker takes twelve digits of its id."""
    return f"br-{network_id[:12]}"


async def enclosures(engine: DockerEngine, machine: str) -> tuple[Enclosure, ...]:
    """The networks of this machine's contracts, as they exist now. Raises WorkloadError."""
    entries = await engine.containers(machine_filter(machine))
    return await _enclosures(engine, machine, entries)


async def _enclosures(
    engine: DockerEngine, machine: str, entries: Collection[Mapping[str, Any]]
) -> tuple[Enclosure, ...]:
    networks = await engine.networks([machine_filter(machine)])
    found = [enclosure(network, machine) for network in networks]
    return (*(one for one in found if one is not None), *in_sandboxes(networks, entries, machine))


def in_sandboxes(
    networks: Iterable[Mapping[str, Any]], entries: Collection[Mapping[str, Any]], machine: str
) -> list[Enclosure]:
    """The networks of sandboxes that somebody has; those of nobody are left out.

    `entries`: all containers. Who is in one stays behind its walls, whatever its name says; what a contract has by name
    comes last.
    """
    held = {sandbox_of(one.get("Labels"), machine): one for one in networks}
    inside = {pauses.joined(entry): owner(entry.get("Labels"), machine) for entry in entries}
    found: list[Enclosure] = []
    for pause in sorted(pauses.read_all(entries, machine), key=lambda one: one.contract_id is not None):
        whose, network = pause.contract_id or inside.get(pause.pause_id), held.get(pause.subnet)
        if whose is not None and network is not None:
            found.append(Enclosure(whose, bridge_name(str(network["Id"])), pause.subnet, pauses.subnet6(network)))
    return found


def enclosure(network: Mapping[str, Any], machine: str) -> Enclosure | None:
    """None: it is no contract's."""
    contract_id = owner(network.get("Labels"), machine)
    if contract_id is None or not (where := pauses.subnets(network)):
        return None
    bridge = (network.get("Options") or {}).get(_BRIDGE) or bridge_name(str(network["Id"]))
    return Enclosure(contract_id, str(bridge), where[0], pauses.subnet6(network))


async def publications(engine: DockerEngine, machine: str) -> tuple[Publication, ...]:
    """What this machine's containers want published by kaalia, running or not. Raises WorkloadError.

    One that was renamed keeps its network and its ports; a copy, which has the labels too, has neither.
    """
    entries = await engine.containers(machine_filter(machine))
    walled = {one.contract_id: one for one in await _enclosures(engine, machine, entries)}
    homes = pauses.homes(entries, machine)
    found = []
    for entry in entries:
        wanted = publication(entry.get("Labels"), machine)
        if wanted is not None and wanted[0] in walled and reading.has_network_of(entry, wanted[0], homes):
            found.append(Publication(walled[wanted[0]], *wanted[1:]))
    return tuple(found)
