"""Where contracts live: a bridge network each, held open by a sandbox; an older kaalia left that to the container."""

import asyncio
from collections.abc import Mapping
from typing import Any

from kaalia.errors import WorkloadError
from kaalia.runtime.base import Placement
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.engine_files import is_any_empty
from kaalia.runtime.container.networks import bridge_name, enclosure
from kaalia.runtime.container.spec import network_body
from kaalia.runtime.labels import contract_filter, machine_filter, owner
from kaalia.runtime.sandbox import pauses
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6, make_network
from kaalia.runtime.sandbox.rules import Enclosure
from kaalia.runtime.sandbox.sandboxes import Network, Sandboxes, remove_network


class Homes:
    """Of one machine (`labels.machine_name`). Without `sandboxes` each new container has a network of its own."""

    def __init__(
        self, engine: DockerEngine, machine: str, sandboxes: Sandboxes | None, ipv6: NetworkIpv6 | None
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._sandboxes = sandboxes
        self._ipv6 = ipv6
        self._open: set[int] = set()
        """Sandboxes that were seen to run and that no start has used since, by contract."""

    def joins(self, placement: Placement) -> str | None:
        """The name of the container whose network a new one joins; None: it gets a network of its own."""
        return None if self._sandboxes is None else pauses.taken_name(placement.contract.contract_id)

    async def ensure(self, placement: Placement, adopted: Mapping[str, Any] | None) -> Enclosure:
        """The contract's network exists exactly once and has the granted subnet. Raises WorkloadError.

        `adopted`: the container that is there already; it keeps the kind of network that it was created with.
        """
        contract_id, subnet = placement.contract.contract_id, placement.subnet
        if self._sandboxes is not None and (adopted is None or pauses.joined(adopted) is not None):
            held = await self._hold(self._sandboxes, placement)
            return Enclosure(contract_id, bridge_name(held.network_id), subnet, held.subnet6)
        body = network_body(placement)
        try:
            network_id, six = await make_network(self._engine, body, self._ipv6)
        except WorkloadError as error:
            existing = await self._own_networks(contract_id)
            if error.code not in {"network_exists", "subnet_taken"} or not existing:
                raise
            known = enclosure(existing[0], self._machine)
            if len(existing) == 1 and known is not None and known.subnet == subnet:
                return known
            for network in existing:
                await remove_network(self._engine, network)
            network_id, six = await make_network(self._engine, body, self._ipv6)
        return Enclosure(contract_id, bridge_name(network_id), subnet, six)

    async def open(self, contract_id: int, document: Mapping[str, Any]) -> None:
        """Before a start of the container: the network that it joined is open. Raises WorkloadError."""
        pause_id = pauses.joined(document)
        if pause_id is not None and self._sandboxes is not None and contract_id not in self._open:
            await self._sandboxes.up(contract_id, pause_id)
        self._open.discard(contract_id)

    async def wait(self, contract_id: int, document: Mapping[str, Any], data_root: str) -> None:
        """The contract's container, `document`, is about to go, and the next one is to find its network and its ports.

        /etc/hosts and the like are the sandbox's: it is made anew when somebody emptied one.
        """
        self._open.discard(contract_id)
        if self._sandboxes is None or pauses.joined(document) is None:
            return
        if await asyncio.to_thread(is_any_empty, document, data_root):
            await self._sandboxes.spoil(contract_id)

    async def leave(self, contract_id: int) -> None:
        """The contract's container is gone; so is its network, at the latest in time. Absent is success."""
        self._open.discard(contract_id)
        if self._sandboxes is not None:
            await self._sandboxes.leave(contract_id)
        for network in await self._own_networks(contract_id):
            await remove_network(self._engine, network)

    async def _hold(self, sandboxes: Sandboxes, placement: Placement) -> Network:
        contract = placement.contract
        wanted = contract.contract_id, placement.subnet, contract.spec.hostname or ""
        try:
            held = await sandboxes.hold(*wanted)
        except WorkloadError as error:
            older = await self._own_networks(contract.contract_id) if error.code == "subnet_taken" else []
            if not older:
                raise
            # Of an older generation, in the same subnet, and without a container by now.
            for network in older:
                await remove_network(self._engine, network)
            held = await sandboxes.hold(*wanted)
        self._open.add(contract.contract_id)
        return held

    async def _own_networks(self, contract_id: int) -> list[dict[str, Any]]:
        networks = await self._engine.networks([machine_filter(self._machine), contract_filter(contract_id)])
        return [network for network in networks if owner(network.get("Labels"), self._machine) == contract_id]
