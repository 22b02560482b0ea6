"""Every container and network of this machine's contracts, as the audit compares them with the books."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

from kaalia.errors import HostError
from kaalia.runtime.base import Present
from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.looks import Looks
from kaalia.runtime.container.networks import in_sandboxes
from kaalia.runtime.labels import Labels, machine_filter, owner
from kaalia.runtime.sandbox import pauses

Published = Callable[[], Awaitable[Mapping[int, frozenset[reading.Place]]]]


async def inventory(
    engine: DockerEngine, machine: str, looks: Looks, published: Published | None
) -> tuple[Present, ...]:
    """From two lists. Of a container that cannot be read no more is known than that it is there.

    `published`: the ports that the firewall leads to each contract; None: to nobody. Raises WorkloadError.
    """
    networks = await engine.networks([machine_filter(machine)])
    entries = await engine.containers(machine_filter(machine))
    taken = {one.contract_id: one for one in pauses.read_all(entries, machine)}
    mine, apart = looks.sorted_out(entries)
    leading = await _leading((labels for _, labels in mine), published)
    found = {number: Present(number, one.container_id) for one in apart for number in one.contract_ids}
    for entry, one in mine:
        pause = taken.get(one.contract_id) if pauses.joined(entry) is not None else None
        found[one.contract_id] = reading.present(entry, one, leading[one.contract_id], pause)
    homes = [(one.contract_id, [one.subnet]) for one in in_sandboxes(networks, entries, machine)]
    own = [(owner(network.get("Labels"), machine), pauses.subnets(network)) for network in networks]
    homes += [(contract_id, where) for contract_id, where in own if contract_id is not None]
    for contract_id, where in homes:
        known = found.get(contract_id, Present(contract_id))
        found[contract_id] = replace(known, subnets=(*known.subnets, *where))
    return tuple(found.values())


async def _leading(mine: Iterable[Labels], published: Published | None) -> Mapping[int, frozenset[reading.Place]]:
    """By contract; what cannot be read is told by the watch over it."""
    promised = {one.contract_id: frozenset((port.host_port, port.protocol) for port in one.ports) for one in mine}
    if published is None:
        return dict.fromkeys(promised, frozenset())
    try:
        now = await published()
    except HostError:
        return promised
    return {number: now.get(number, frozenset()) for number in promised}
