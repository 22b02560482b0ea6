"""Containers on a Docker Engine as a `Runtime`. Idempotent by names and labels; a restart loses nothing.

Touches only containers and networks whose labels carry this machine's id, and never prunes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kaalia.clock import Clock, SystemClock
from kaalia.contracts.contract import Contract
from kaalia.contracts.ports import address_in
from kaalia.errors import WorkloadError
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
    Started,
)
from kaalia.runtime.container import reading
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.furnish import Furnisher
from kaalia.runtime.container.homes import Homes
from kaalia.runtime.container.images import INACTIVITY_S, Images, normalise
from kaalia.runtime.container.inside import Twins, volume_paths
from kaalia.runtime.container.inventory import inventory
from kaalia.runtime.container.kit import AccessFolders
from kaalia.runtime.container.looks import Looks
from kaalia.runtime.container.roots import Roots
from kaalia.runtime.container.spec import container_body, container_name, labels_of
from kaalia.runtime.labels import Labels, contract_filter, decode, machine_filter, owner, sandbox_filter
from kaalia.runtime.sandbox import pauses
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6, addressed
from kaalia.runtime.sandbox.port_rules import Publication
from kaalia.runtime.sandbox.ports import Ports
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from kaalia.runtime.sandbox.walls import Walls
from kaalia.runtime.volumes.qgroups import SETTLE_S, BtrfsLimits

_REMOVAL_CHECKS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits while another removal of the same container is under way."""
_MAX_TAIL_LINES = 10_000


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
        sandboxes: Sandboxes | None = None,
    ) -> None:
        """`walls`, `ports`, `ipv6`: without them, as where nothing is ever started, networks are open, ports closed.

        `sandboxes`: hold the networks of what is created; without them each container has a network of its own.
        """
        self._engine = engine
        self._machine = machine
        self._images = Images(engine, clock or SystemClock(), pull_inactivity_s)
        self._limits = limits or BtrfsLimits()
        self._walls = walls
        self._ports = ports
        self._furnisher = Furnisher(engine, access)
        self._homes = Homes(engine, machine, sandboxes, ipv6)
        self._looks = Looks(engine, machine)
        self.twins = Twins(engine, machine)
        self.roots = Roots(self._document, self._data_root)
        self._facts: Engine | None = None
        self._ulimits: list[dict[str, Any]] = []

    @property
    def kit_changed(self) -> asyncio.Event:
        """Set when a container could not be made for want of an access kit, and when one can be made again."""
        return self._furnisher.kit_changed

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
        async with self.roots.withheld(placement.contract.contract_id):
            return await self._create(placement)

    async def _create(self, placement: Placement) -> str:
        kit = await self._furnisher.kit(placement.contract)
        engine = self._facts or await self.engine()
        body = container_body(placement, engine, self._ulimits, kit, self._homes.joins(placement))
        body["Image"] = normalise(body["Image"])
        name = container_name(placement.contract.contract_id)
        image, existing = await _side_by_side(self._engine.image(body["Image"]), self._engine.inspect_container(name))
        paths = volume_paths(image or {}, [mount.target for mount in placement.mounts])
        adopted = None if existing is None else await self._adopt(placement, paths, existing)
        preparing: list[Awaitable[Any]] = [self._homes.ensure(placement, adopted)]
        if adopted is None and self._quota_root is not None:
            preparing.append(self._limits.settle(self._quota_root, SETTLE_S))
        where, *_ = await _side_by_side(*preparing)
        if self._homes.joins(placement) is None:
            body = addressed(body, where.subnet6)
        if self._walls is not None:
            self._walls.expect(where)
        if adopted is not None:
            if self._ports is not None:
                self._ports.forget(placement.contract.contract_id)  # Docker publishes those of an older kaalia
            return str(adopted["Id"])
        if self._ports is not None:
            self._ports.expect(Publication(where, address_in(placement.subnet), placement.ports))
        async with self.twins.instead_of(image) if image and paths else nullcontext(body["Image"]) as image_id:
            making = self._make(placement, {**body, "Image": image_id}, paths)
            # The start asks for walls and ports again, which then takes half as long.
            container_id, _ = await _side_by_side(making, self._stand(placement.contract.contract_id, is_running=False))
        return str(container_id)

    async def _make(self, placement: Placement, body: dict[str, Any], paths: tuple[str, ...]) -> str:
        name = container_name(placement.contract.contract_id)
        try:
            container_id = await self._engine.create_container(name, body)
        except WorkloadError as error:
            # An earlier create whose answer was lost may have come through just now.
            existing = await self._engine.inspect_container(name) if error.code == "name_taken" else None
            adopted = None if existing is None else await self._adopt(placement, paths, existing)
            if adopted is None:
                raise
            return str(adopted["Id"])
        await self._furnisher.furnish(container_id, placement, paths)
        return container_id

    async def start(self, contract_id: int) -> Started:
        async with self.roots.withheld(contract_id):
            return await self._start(contract_id)

    async def _start(self, contract_id: int) -> Started:
        document, _ = await self._own(contract_id)
        await self._homes.open(contract_id, document)
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

    async def discard(self, contract_id: int) -> None:
        async with self.roots.withheld(contract_id):
            await self._discard(contract_id)

    async def _discard(self, contract_id: int) -> None:
        found = await self._find(contract_id)
        if found is None:
            await self._prove_absent(contract_id)
            return
        engine = self._facts or await self.engine()
        await self._homes.wait(contract_id, found[0], engine.data_root)
        await self._remove_container(contract_id, found[0])

    async def remove(self, contract_id: int) -> None:
        async with self.roots.withheld(contract_id):
            await self._remove(contract_id)
        self.roots.forget(contract_id)

    async def _remove(self, contract_id: int) -> None:
        found = await self._find(contract_id)
        if found is not None:
            await self._remove_container(contract_id, found[0])
        else:
            await self._prove_absent(contract_id)  # under another name it would be left in a network without walls
        withdrawing = [self._ports.withdraw(contract_id)] if self._ports is not None else []
        await _side_by_side(*withdrawing, self._homes.leave(contract_id))
        if self._walls is not None:
            self._walls.forget(contract_id)
        await self._furnisher.forget(contract_id)

    async def authorize(self, contract: Contract, chain: str | None = None, *, is_older: bool = False) -> None:
        await self._furnisher.authorize(contract, chain, is_older=is_older)

    async def notebook(self, contract_id: int) -> str | None:
        found = await self._find(contract_id)
        return None if found is None else await self._furnisher.notebook(str(found[0]["Id"]), contract_id)

    async def observe(self) -> Found:
        return await self._looks.all()

    async def inventory(self) -> tuple[Present, ...]:
        """Every container and network of this machine. Raises WorkloadError."""
        published = None if self._ports is None else self._ports.published
        return await inventory(self._engine, self._machine, self._looks, published)

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
        try:
            async for event in self._engine.events(machine_filter(self._machine)):
                if event is None:
                    self._facts = None
                    self._looks.hearing(True)
                    if self._walls is not None:
                        self._walls.alarm()  # an engine that starts writes its own firewall rules anew
                    yield ANY_CONTRACT
                elif contract_id := owner((event.get("Actor") or {}).get("Attributes"), self._machine):
                    self._looks.heard(str(event["Actor"].get("ID", "")))
                    yield contract_id
        finally:
            self._looks.hearing(False)

    # Containers

    async def _prove_absent(self, contract_id: int) -> None:
        """No container has the contract's name; is it there under another one? Then raises WorkloadError."""
        copies = await self._engine.containers(machine_filter(self._machine), contract_filter(contract_id))
        if not copies:
            return
        entries = await self._engine.containers(machine_filter(self._machine), sandbox_filter())
        homes = pauses.homes(entries, self._machine)
        for entry in copies:
            if reading.has_network_of(entry, contract_id, homes):
                raise reading.renamed(entry, contract_id)

    async def _find(self, contract_id: int) -> tuple[dict[str, Any], Labels] | None:
        """Inspection and labels of the contract's container; None when there is none, or it is not ours."""
        document = await self._engine.inspect_container(container_name(contract_id))
        if document is None:
            return None
        labels = decode(document["Config"].get("Labels"), self._machine)
        return None if labels is None or labels.contract_id != contract_id else (document, labels)

    async def _document(self, contract_id: int) -> dict[str, Any]:
        return (await self._own(contract_id))[0]

    async def _data_root(self) -> str:
        return (self._facts or await self.engine()).data_root

    async def _own(self, contract_id: int) -> tuple[dict[str, Any], Labels]:
        found = await self._find(contract_id)
        if found is None:
            raise WorkloadError(
                "not_found",
                f"cannot find container {container_name(contract_id)} of machine {self._machine}",
                remedy="create it first",
            )
        return found

    async def _adopt(
        self, placement: Placement, paths: tuple[str, ...], document: dict[str, Any]
    ) -> dict[str, Any] | None:
        """`document`: of the container that has the name. Given back if it is this placement; None: it is gone now."""
        contract_id = placement.contract.contract_id
        name, wanted = container_name(contract_id), labels_of(placement)
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
            return document
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


async def _side_by_side(*doing: Awaitable[Any]) -> list[Any]:
    """All of it to its end, whatever fails; then the first that failed."""
    for came in (results := await asyncio.gather(*doing, return_exceptions=True)):
        if isinstance(came, BaseException):
            raise came
    return results
