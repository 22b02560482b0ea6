"""Containers on a Docker Engine as a `Runtime`. Idempotent by names and labels; a restart loses nothing.

Touches only containers and networks whose labels carry this machine's id, and never prunes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kaalia.clock import Clock, SystemClock
from kaalia.contracts.contract import Contract
from kaalia.contracts.ports import address_in
from kaalia.errors import HostError, WorkloadError
from kaalia.model.machine import Engine
from kaalia.runtime.base import (
    ANY_CONTRACT,
    Found,
    ImageFacts,
    Observed,
    Placement,
    Present,
    Progress,
    RegistryLogin,
    SetApart,
    Started,
)
from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.furnish import Furnisher
from kaalia.runtime.container.images import INACTIVITY_S, Images, normalise
from kaalia.runtime.container.inside import Twins, volume_paths
from kaalia.runtime.container.kit import AccessFolders
from kaalia.runtime.container.networks import bridge_name, enclosure, make_network, subnets
from kaalia.runtime.container.spec import container_body, container_name, labels_of, network_body
from kaalia.runtime.labels import Labels, contract_filter, decode, machine_filter, owner
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6, addressed
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.ports import Ports
from kaalia.runtime.sandbox.rules import Enclosure
from kaalia.runtime.sandbox.walls import Walls
from kaalia.runtime.volumes.qgroups import SETTLE_S, BtrfsLimits

_NETWORK_RETRIES_S = (0.1, 0.3, 1.0, 2.0)
"""Waits while the engine still detaches a removed container from its network."""
_REMOVAL_CHECKS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits while another removal of the same container is under way."""
_MAX_TAIL_LINES = 10_000


@dataclass(frozen=True, slots=True)
class _Seen:
    """A workload as last inspected, and the line of the list that it was inspected for."""

    line: tuple[str, str, str]
    observed: Observed


class ContainerRuntime:
    """The workloads of one machine (`labels.machine_name`) on one engine."""

    def __init__(
        self,
        engine: DockerEngine,
        machine: str,
        *,
        clock: Clock | None = None,
        pull_inactivity_s: float = INACTIVITY_S,
        limits: BtrfsLimits | None = None,
        walls: Walls | None = None,
        ports: Ports | None = None,
        ipv6: NetworkIpv6 | None = None,
        access: AccessFolders | None = None,
    ) -> None:
        """`walls`, `ports`, `ipv6`: without them, as where nothing is ever started, networks are open, ports closed."""
        self._engine = engine
        self._machine = machine
        self._images = Images(engine, clock or SystemClock(), pull_inactivity_s)
        self._limits = limits or BtrfsLimits()
        self._walls = walls
        self._ports = ports
        self._ipv6 = ipv6
        self._furnisher = Furnisher(engine, access)
        self.twins = Twins(engine, machine)
        self._facts: Engine | None = None
        self._ulimits: list[dict[str, Any]] = []
        self._seen: dict[str, _Seen] = {}

    async def close(self) -> None:
        """Let go of what goes on in the background; the workloads run on."""
        await self._limits.close()

    async def engine(self) -> Engine:
        self._facts = None
        self._ulimits = await self._engine.ulimits()
        self._facts = await self._engine.facts()
        return self._facts

    @property
    def _quota_root(self) -> Path | None:
        """Where the engine limits sizes by btrfs."""
        return Path(self._facts.data_root) if self._facts and self._facts.storage_driver == "btrfs" else None

    async def image(self, reference: str) -> ImageFacts | None:
        return await self._images.image(reference)

    async def pull(self, reference: str, login: RegistryLogin | None, progress: Progress) -> ImageFacts:
        return await self._images.pull(reference, login, progress)

    async def create(self, placement: Placement) -> str:
        """Raises `name_taken` (somebody else's container), `generation_stale`, `grants_changed`, the engine's codes."""
        kit = await self._furnisher.kit(placement.contract)
        body = container_body(placement, self._facts or await self.engine(), self._ulimits, kit)
        body["Image"] = normalise(body["Image"])
        image = await self._engine.image(body["Image"])
        paths = volume_paths(image or {}, [mount.target for mount in placement.mounts])
        container_id = await self._adopt(placement, paths)
        body = addressed(body, where := await self._ensure_network(placement))
        if container_id is not None:
            if self._ports is not None:
                self._ports.forget(placement.contract.contract_id)  # Docker publishes those of an older kaalia
            return container_id
        if self._quota_root is not None:
            await self._limits.settle(self._quota_root, SETTLE_S)
        if image is None or not paths:
            container_id = await self._make(placement, body, paths)
        else:
            async with self.twins.instead_of(image) as image_id:
                container_id = await self._make(placement, {**body, "Image": image_id}, paths)
        if self._ports is not None:
            self._ports.expect(Publication(where, address_in(placement.subnet), placement.ports))
        return container_id

    async def _make(self, placement: Placement, body: dict[str, Any], paths: tuple[str, ...]) -> str:
        name = container_name(placement.contract.contract_id)
        try:
            container_id = await self._engine.create_container(name, body)
        except WorkloadError as error:
            # An earlier create whose answer was lost may have come through just now.
            adopted = await self._adopt(placement, paths) if error.code == "name_taken" else None
            if adopted is None:
                raise
            return adopted
        await self._furnisher.furnish(container_id, placement, paths)
        return container_id

    async def start(self, contract_id: int) -> Started:
        document, _ = await self._own(contract_id)
        await self._stand(contract_id, is_running=bool(document["State"].get("Running")))
        doing = [self._engine.start(document["Id"], container_name(contract_id))]
        is_begun, *_ = await _side_by_side(*doing, *([self._ports.settle()] if self._ports is not None else []))
        document, labels = await self._own(contract_id)
        return Started(reading.observed(document, labels), was_running=not is_begun)

    async def _stand(self, contract_id: int, *, is_running: bool) -> None:
        """Walls and ports, side by side: each of them asks and tells the firewall several times."""
        standing = [self._walls.stand(contract_id)] if self._walls is not None else []
        if self._ports is not None and not is_running:
            standing.append(self._ports.stand(contract_id))
        await _side_by_side(*standing)

    async def stop(self, contract_id: int, grace_s: float) -> None:
        found = await self._find(contract_id)
        if found is not None:
            await self._engine.stop(found[0]["Id"], container_name(contract_id), grace_s)

    async def remove(self, contract_id: int) -> None:
        found = await self._find(contract_id)
        if found is not None:
            await self._remove_container(contract_id, found[0])
        if self._ports is not None:
            await self._ports.withdraw(contract_id)
        for network in await self._own_networks(contract_id):
            await self._remove_network(network)
        if self._walls is not None:
            self._walls.forget(contract_id)
        await self._furnisher.forget(contract_id)

    async def authorize(self, contract: Contract) -> None:
        await self._furnisher.authorize(contract)

    async def observe(self) -> Found:
        """One call for the list; details are asked for, all at once, only where a line of the list is new."""
        mine, apart = await self._listed()
        looked = await asyncio.gather(*(self._look(*one) for one in mine))
        self._seen = {one.observed.container_id: one for one in looked if isinstance(one, _Seen)}
        apart += [one for one in looked if isinstance(one, SetApart)]
        return Found(tuple(one.observed for one in self._seen.values()), tuple(apart))

    async def inventory(self) -> tuple[Present, ...]:
        """Every container and network of this machine, from two lists. Raises WorkloadError.

        Of a container that cannot be read no more is known than that it is there.
        """
        networks = await self._engine.networks([machine_filter(self._machine)])
        mine, apart = await self._listed()
        leading = await self._leading(labels for _, labels in mine)
        found = {number: Present(number, one.container_id) for one in apart for number in one.contract_ids}
        found |= {one.contract_id: reading.present(entry, one, leading[one.contract_id]) for entry, one in mine}
        for network in networks:
            contract_id = owner(network.get("Labels"), self._machine)
            if contract_id is not None:
                known = found.get(contract_id, Present(contract_id))
                found[contract_id] = replace(known, subnets=(*known.subnets, *subnets(network)))
        return tuple(found.values())

    async def _leading(self, mine: Iterable[Labels]) -> Mapping[int, frozenset[reading.Place]]:
        """The ports that the firewall leads to each contract; what cannot be read is told by the watch over it."""
        promised = {one.contract_id: frozenset((port.host_port, port.protocol) for port in one.ports) for one in mine}
        if self._ports is None:
            return dict.fromkeys(promised, frozenset())
        try:
            published = await self._ports.published()
        except HostError:
            return promised
        return {number: published.get(number, frozenset()) for number in promised}

    async def inspect(self, contract_id: int) -> Observed | None:
        found = await self._find(contract_id)
        if found is None:
            await self._prove_absent(contract_id)
            return None
        return reading.observed(*found)

    async def logs(self, contract_id: int, tail: int) -> str:
        document, _ = await self._own(contract_id)
        lines = max(0, min(tail, _MAX_TAIL_LINES))
        text = await self._engine.logs(document["Id"], container_name(contract_id), lines)
        return text.decode(errors="replace")

    async def events(self) -> AsyncIterator[int]:
        async for event in self._engine.events(machine_filter(self._machine)):
            if event is None:
                self._facts = None
                if self._walls is not None:
                    self._walls.alarm()  # an engine that starts writes its own firewall rules anew
                yield ANY_CONTRACT
            elif contract_id := owner((event.get("Actor") or {}).get("Attributes"), self._machine):
                yield contract_id

    # Containers

    async def _listed(self) -> tuple[list[tuple[dict[str, Any], Labels]], list[SetApart]]:
        """The lines of all that names this machine: those that can be read, with their labels, and the others."""
        mine: list[tuple[dict[str, Any], Labels]] = []
        apart: list[SetApart] = []
        for entry in await self._engine.containers(machine_filter(self._machine)):
            try:
                if labels := reading.read_labels(entry, self._machine):
                    mine.append((entry, labels))
            except WorkloadError as error:
                apart.append(reading.set_apart(entry, self._machine, error.problem))
        return mine, apart

    async def _look(self, entry: dict[str, Any], labels: Labels) -> _Seen | SetApart | None:
        """The details for a line of the list, as known if the line is; None: it is gone meanwhile.

        A container that the engine lists and refuses to describe, as with a broken layer, holds nobody else up.
        """
        container_id, line = str(entry["Id"]), reading.line_of(entry)
        known = self._seen.get(container_id)
        if known is not None and known.line == line:
            return known
        try:
            document = await self._engine.inspect_container(container_id)
        except WorkloadError as error:
            if error.code == "engine_unavailable":
                raise
            return reading.set_apart(entry, self._machine, error.problem)
        return None if document is None else _Seen(line, reading.observed(document, labels))

    async def _prove_absent(self, contract_id: int) -> None:
        """No container has the contract's name; is it there under another one? Then raises WorkloadError."""
        for entry in await self._engine.containers(machine_filter(self._machine), contract_filter(contract_id)):
            if reading.has_network_of(entry, contract_id):
                raise reading.renamed(entry, contract_id)

    async def _find(self, contract_id: int) -> tuple[dict[str, Any], Labels] | None:
        """Inspection and labels of the contract's container; None when there is none, or it is not ours."""
        document = await self._engine.inspect_container(container_name(contract_id))
        if document is None:
            return None
        labels = decode(document["Config"].get("Labels"), self._machine)
        return None if labels is None or labels.contract_id != contract_id else (document, labels)

    async def _own(self, contract_id: int) -> tuple[dict[str, Any], Labels]:
        found = await self._find(contract_id)
        if found is None:
            raise WorkloadError(
                "not_found",
                f"cannot find container {container_name(contract_id)} of machine {self._machine}",
                remedy="create it first",
            )
        return found

    async def _adopt(self, placement: Placement, paths: tuple[str, ...]) -> str | None:
        """The id of the container that is already this placement; None when the name is free for it."""
        contract_id = placement.contract.contract_id
        name, wanted = container_name(contract_id), labels_of(placement)
        document = await self._engine.inspect_container(name)
        if document is None:
            return None
        found = decode(document["Config"].get("Labels"), self._machine)
        if found is None or found.contract_id != contract_id:
            raise WorkloadError(
                "name_taken",
                f"cannot create {name}: a container of this name exists that kaalia did not make for this machine",
                remedy=f"remove it or rename it: docker rename {name} {name}-old",
                evidence=f"{document['Id'][:12]} {document['Config'].get('Image')}",
            )
        if found.generation > wanted.generation:
            raise WorkloadError(
                "generation_stale",
                f"cannot create generation {wanted.generation} of {name}: generation {found.generation} exists",
                remedy="take the newer contract from the marketplace",
            )
        was_started = reading.time_of(document["State"].get("StartedAt")) is not None
        container_id = str(document["Id"])
        is_equal = found.spec_sha256 == wanted.spec_sha256 and found.address in ("", wanted.address)
        if found.generation == wanted.generation and is_equal:
            if not was_started:
                # A crash may have come between create and this; after a start the files are the renter's.
                await self._furnisher.furnish(container_id, placement, paths)
            return container_id
        if found.generation == wanted.generation and was_started:
            raise WorkloadError(
                "grants_changed",
                f"cannot create {name}: generation {found.generation} already ran with other GPUs, ports, address or "
                "options",
                remedy="give it back its GPUs, ports and subnet, or raise the generation: that loses its data",
                evidence=f"{found.spec_sha256} exists, {wanted.spec_sha256} is wanted",
            )
        await self._remove_container(contract_id, document)
        return None

    async def _remove_container(self, contract_id: int, document: Mapping[str, Any]) -> None:
        """By id: whatever takes the name meanwhile is not meant."""
        await self._kill_and_remove(contract_id, str(document["Id"]))
        await self.twins.forget(str(document["Image"]))
        if self._quota_root is not None:
            await self._limits.removed(self._quota_root)

    async def _kill_and_remove(self, contract_id: int, container_id: str) -> None:
        for wait_s in (*_REMOVAL_CHECKS_S, None):
            try:
                await self._engine.remove_container(container_id, container_name(contract_id))
                return
            except WorkloadError as error:
                if error.code != "engine_conflict" or wait_s is None:
                    raise
                await asyncio.sleep(wait_s)

    # Networks

    async def _own_networks(self, contract_id: int) -> list[dict[str, Any]]:
        networks = await self._engine.networks([machine_filter(self._machine), contract_filter(contract_id)])
        return [network for network in networks if owner(network.get("Labels"), self._machine) == contract_id]

    async def _ensure_network(self, placement: Placement) -> Enclosure:
        """The contract's network exists exactly once and has the granted subnet."""
        body = network_body(placement)
        try:
            network_id, six = await make_network(self._engine, body, self._ipv6)
        except WorkloadError as error:
            existing = await self._own_networks(placement.contract.contract_id)
            if error.code not in {"network_exists", "subnet_taken"} or not existing:
                raise
            known = enclosure(existing[0], self._machine)
            if len(existing) == 1 and known is not None and known.subnet == placement.subnet:
                return known
            for network in existing:
                await self._remove_network(network)
            network_id, six = await make_network(self._engine, body, self._ipv6)
        made = Enclosure(placement.contract.contract_id, bridge_name(network_id), placement.subnet, six)
        if self._walls is not None:
            self._walls.expect(made)
        return made

    async def _remove_network(self, network: Mapping[str, Any]) -> None:
        for wait_s in (*_NETWORK_RETRIES_S, None):
            try:
                await self._engine.remove_network(str(network["Id"]), str(network["Name"]))
                return
            except WorkloadError as error:
                if error.code != "network_busy" or wait_s is None:
                    raise
                await asyncio.sleep(wait_s)


async def _side_by_side(*doing: Awaitable[Any]) -> list[Any]:
    """All of it to its end, whatever fails; then the first that failed."""
    for came in (results := await asyncio.gather(*doing, return_exceptions=True)):
        if isinstance(came, BaseException):
            raise came
    return results
