"""Networks of contracts, each held open by a pause container that outlives the workload in it; some stand ready, warm.

A sandbox serves one contract. It is then set aside, and removed when the machine has the time: a network takes the
engine longer than all the rest of a removal. What a crash leaves is found by its labels, and is used or swept.
"""

import asyncio
import ipaddress
import logging
import platform
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from kaalia.errors import WorkloadError
from kaalia.runtime.labels import machine_filter, sandbox_filter, sandbox_of
from kaalia.runtime.program_image import ProgramImage, is_same
from kaalia.runtime.sandbox import pause, pauses
from kaalia.runtime.sandbox.ipv6 import NetworkIpv6, make_network
from kaalia.runtime.sandbox.pauses import Pause, Use, taken_name

log = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_S = (0.1, 0.3, 1.0, 2.0)
"""Waits while the engine still detaches a removed container from its network."""


class SandboxEngine(Protocol):
    """What a container engine does here. Raises WorkloadError."""

    async def image(self, reference: str) -> dict[str, Any] | None: ...
    async def load_image(self, tar: bytes) -> None: ...
    async def containers(self, *label_filters: str) -> list[dict[str, Any]]: ...
    async def inspect_container(self, name: str) -> dict[str, Any] | None: ...
    async def create_container(self, name: str, body: dict[str, Any]) -> str: ...
    async def rename_container(self, container_id: str, name: str) -> None: ...
    async def start(self, container_id: str, name: str) -> bool: ...
    async def remove_container(self, container_id: str, name: str) -> None: ...
    async def networks(self, label_filters: list[str]) -> list[dict[str, Any]]: ...
    async def create_network(self, body: dict[str, Any]) -> str: ...
    async def remove_network(self, network_id: str, name: str) -> None: ...


@contextmanager
def _noted(what: str) -> Iterator[None]:
    """One object that the engine does not give up, or does not start, holds up no other."""
    try:
        yield
    except WorkloadError as error:
        if error.code == "engine_unavailable":
            raise
        log.warning("sandboxes: %s: %s", what, error)


@dataclass(frozen=True, slots=True)
class Network:
    """`subnet6`: its IPv6 network, "" without one."""

    network_id: str
    subnet6: str


class Sandboxes:
    """Those of one machine (`labels.machine_name`) on one engine. `warm`: how many stand ready, by `refill`."""

    def __init__(
        self,
        engine: SandboxEngine,
        machine: str,
        warm: int = 0,
        ipv6: NetworkIpv6 | None = None,
        pool: str = "0.0.0.0/0",
        processor: str = platform.machine(),
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._wanted = warm
        self._ipv6 = ipv6
        self._pool = ipaddress.IPv4Network(pool)
        self._processor = processor
        self._image: ProgramImage | None = None
        self._changed = asyncio.Event()
        self.warm: frozenset[str] = frozenset()
        """Subnets of those that stand ready."""
        self._foreign: set[str] = set()
        self.making: frozenset[str] = frozenset()
        """Subnets that are about to be one's of these. Read from the store's thread too."""

    # Of a contract

    async def hold(self, contract_id: int, subnet: str, hostname: str = "") -> Network:
        """The contract's sandbox in this subnet, running. Repeatable.

        Raises WorkloadError `subnet_taken`, `name_taken` and the engine's codes.
        """
        self.warm -= {subnet}
        fit: Pause | None = None
        for one in await self._pauses(subnet):
            if one.contract_id not in (None, contract_id):
                raise _subnet_taken(contract_id, subnet, one)
            is_strange = one.use is Use.USED and one.was_of != contract_id
            if one.hostname != hostname or is_strange:
                await self._engine.remove_container(one.pause_id, one.use)
            elif fit is None or one.use is Use.TAKEN:
                fit = one
        if fit is None:
            return await self._named(contract_id, lambda name: self._make(name, subnet, hostname))
        return await self._take(contract_id, fit)

    async def up(self, contract_id: int, pause_id: str) -> None:
        """The network that its container joined is open, as before a start. Raises WorkloadError `network_missing`."""
        found = await self._engine.inspect_container(pause_id)
        if found is None:
            raise WorkloadError(
                "network_missing",
                f"cannot start contract {contract_id}: somebody removed container {taken_name(contract_id)}, which "
                "holds its network",
                remedy=f"its files are still there: docker cp C.{contract_id}:/ FOLDER; recycle it for a new one",
            )
        self._refuse_foreign(found, taken_name(contract_id))
        if not found["State"].get("Running"):
            await self._engine.start(pause_id, taken_name(contract_id))

    async def leave(self, contract_id: int) -> None:
        """Its container is gone: the sandbox is nobody's, to be removed in time. Absent is success."""
        found = await self._engine.inspect_container(taken_name(contract_id))
        if found is not None and sandbox_of(found["Config"].get("Labels"), self._machine) is not None:
            await self._engine.rename_container(str(found["Id"]), pauses.used_name(contract_id, str(found["Id"])))
        # Also when it is set aside already: whoever asked for that may not have heard of it.
        self._changed.set()

    async def spoil(self, contract_id: int) -> None:
        """Remove what holds the network open; the next `hold` makes it anew in the same network. Absent is success."""
        found = await self._engine.inspect_container(taken_name(contract_id))
        if found is not None and sandbox_of(found["Config"].get("Labels"), self._machine) is not None:
            await self._engine.remove_container(str(found["Id"]), taken_name(contract_id))

    # Of nobody

    async def changed(self, timeout_s: float) -> None:
        """Wait until there is something for `refill` to do, `timeout_s` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    async def refill(
        self, claimed: Callable[[], Awaitable[Collection[str]]], choose: Callable[[Collection[str]], str]
    ) -> None:
        """Start what should run, sweep what nobody needs, and make warm ones. Raises WorkloadError, ContractError.

        `claimed`: subnets of contracts, by the books. `choose`: a subnet that is none of these.
        """
        self._changed.clear()
        entries = await self._engine.containers(machine_filter(self._machine))
        networks = await self._engine.networks([machine_filter(self._machine), sandbox_filter()])
        # Asked last: who takes one claims it before, so what is taken by then stands there.
        owned = frozenset(await claimed())
        kept = owned | await self._sweep(entries, owned, claimed)
        for network in networks:
            subnet = sandbox_of(network.get("Labels"), self._machine)
            if subnet is not None and subnet not in kept and subnet not in await claimed():
                with _noted(f"network {network['Name']} stays for now"):
                    await remove_network(self._engine, network)
        while len(self.warm) < self._wanted:
            await self._add(claimed, choose)

    async def _sweep(
        self,
        entries: Collection[Mapping[str, Any]],
        owned: Collection[str],
        claimed: Callable[[], Awaitable[Collection[str]]],
    ) -> frozenset[str]:
        """Remove the pauses that nobody needs; the subnets of the others.

        One that ended under a running workload is left: started, it would have a network that the workload is not in.
        """
        needed = {where: entry for entry in entries if (where := pauses.joined(entry)) is not None}
        busy = {where for where, entry in needed.items() if entry.get("State") == "running"}
        ready: set[str] = set()
        kept: set[str] = set()
        for one in pauses.read_all(entries, self._machine):
            is_needed = one.subnet in owned or one.pause_id in needed or taken_name(one.contract_id or 0) in needed
            if not is_needed and len(ready) < self._wanted and await self._is_ready(one):
                ready.add(one.subnet)
            elif not is_needed:
                # Nobody takes it from now on; who took it before has claimed it by now.
                self.warm -= {one.subnet}
                if one.subnet not in await claimed():
                    with _noted(f"container {one.pause_id[:12]} stays for now"):
                        await self._engine.remove_container(one.pause_id, one.use)
                    continue
            elif not one.is_running and one.pause_id not in busy:
                with _noted(f"the network of contract {one.contract_id} is not opened yet"):
                    await self._engine.start(one.pause_id, one.use)
            kept.add(one.subnet)
        self.warm = frozenset(ready)
        return frozenset(kept)

    async def _is_ready(self, one: Pause) -> bool:
        """As it would be made today: the owner may have changed the pool since, and the machine its IPv6."""
        if one.use is not Use.WARM or not one.is_running or one.hostname:
            return False
        if not ipaddress.IPv4Network(one.subnet).subnet_of(self._pool):
            return False
        return one.subnet6 == (await self._ipv6.subnet(one.subnet) if self._ipv6 is not None else "")

    async def _add(
        self, claimed: Callable[[], Awaitable[Collection[str]]], choose: Callable[[Collection[str]], str]
    ) -> None:
        """One more. Told before the books are asked, so that no launch claims the same subnet in between."""
        avoid = set(self._foreign)
        try:
            while True:
                subnet = choose({*avoid, *self.warm, *await claimed()})
                self.making = frozenset({subnet})
                if subnet not in await claimed():
                    break
                avoid.add(subnet)
            await self._make(pauses.warm_name(subnet), subnet, "")
            self.warm |= {subnet}
        except WorkloadError as error:
            if error.code in {"subnet_taken", "network_exists", "name_taken"}:
                self._foreign.add(subnet)  # of somebody else, without a route: not tried again
            raise
        finally:
            self.making = frozenset()

    # The engine

    async def _take(self, contract_id: int, one: Pause) -> Network:
        if one.use is not Use.TAKEN:
            await self._named(contract_id, lambda name: self._engine.rename_container(one.pause_id, name))
            self._changed.set()
        if one.is_running:
            return Network(one.network_id, one.subnet6)
        await self._engine.start(one.pause_id, taken_name(contract_id))
        return _read((await self._networks(one.subnet))[0])

    async def _named(self, contract_id: int, work: Callable[[str], Awaitable[T]]) -> T:
        """Work that gives the contract's name to a pause; one of another subnet that has it is set aside."""
        name = taken_name(contract_id)
        try:
            return await work(name)
        except WorkloadError as error:
            found = await self._engine.inspect_container(name) if error.code == "name_taken" else None
            if found is None:
                raise
            self._refuse_foreign(found, name)
        await self.leave(contract_id)
        return await work(name)

    async def _make(self, name: str, subnet: str, hostname: str) -> Network:
        image_id = await self._ready_image()
        made = await self._ready_network(subnet)
        body = pauses.pause_body(self._machine, image_id, subnet, made.subnet6, hostname)
        await self._engine.start(await self._engine.create_container(name, body), name)
        return made

    async def _ready_network(self, subnet: str) -> Network:
        """Made now, or left by a crash, or by a request whose answer got lost."""
        if existing := await self._networks(subnet):
            return _read(existing[0])
        try:
            body = pauses.network_body(self._machine, subnet)
            return Network(*await make_network(self._engine, body, self._ipv6))
        except WorkloadError as error:
            is_late = error.code in {"network_exists", "subnet_taken"}
            if not (is_late and (existing := await self._networks(subnet))):
                raise
            return _read(existing[0])

    async def _ready_image(self) -> str:
        """Its id: what a tag leads to may have changed between the look and the use."""
        made = self._image = self._image or pause.image(self._processor)
        found = await self._engine.image(made.tag)
        if found is None or not is_same(found, made):
            await self._engine.load_image(made.tar)
            found = await self._engine.image(made.tag)
        if found is None or not is_same(found, made):
            raise WorkloadError(
                "pause_image_strange",
                f"cannot use image {made.tag}: it is not the one that kaalia loads",
                remedy=f"docker image rm {made.tag}, and see who made it",
            )
        return str(found["Id"])

    async def _pauses(self, subnet: str) -> list[Pause]:
        entries = await self._engine.containers(machine_filter(self._machine), sandbox_filter(subnet))
        return pauses.read_all(entries, self._machine)

    async def _networks(self, subnet: str) -> list[dict[str, Any]]:
        return await self._engine.networks([machine_filter(self._machine), sandbox_filter(subnet)])

    def _refuse_foreign(self, found: Mapping[str, Any], name: str) -> None:
        if sandbox_of(found["Config"].get("Labels"), self._machine) is None:
            raise WorkloadError(
                "name_taken",
                f"cannot use {name}: a container of this name exists that kaalia did not make for this machine",
                remedy=f"remove it or rename it: docker rename {name} {name}-old",
            )


def _read(network: Mapping[str, Any]) -> Network:
    """One of the engine's list."""
    return Network(str(network["Id"]), pauses.subnet6(network))


async def remove_network(engine: SandboxEngine, network: Mapping[str, Any]) -> None:
    """One of the engine's list. Raises WorkloadError."""
    for wait_s in (*_BUSY_S, None):
        try:
            await engine.remove_network(str(network["Id"]), str(network["Name"]))
            return
        except WorkloadError as error:
            if error.code != "network_busy" or wait_s is None:
                raise
            await asyncio.sleep(wait_s)


def _subnet_taken(contract_id: int, subnet: str, one: Pause) -> WorkloadError:
    return WorkloadError(
        "subnet_taken", f"cannot give subnet {subnet} to contract {contract_id}: contract {one.contract_id} is in it"
    )
