"""A runtime that works: containers, networks, images and a registry in memory, with faults to switch on.

It breaks on wrong use: two running workloads with one GPU or host port, a create over another spec, a start of nothing.
Such a break is an AssertionError, and it is kept in `violations` too, in case someone swallows it.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import IPv4Network
from typing import TypeVar

from kaalia.contracts.contract import Contract
from kaalia.errors import WorkloadError
from kaalia.model.machine import Engine
from kaalia.runtime.base import (
    ANY_CONTRACT,
    Found,
    ImageFacts,
    Observed,
    ObservedState,
    Placement,
    Present,
    Progress,
    RegistryLogin,
    SetApart,
    Started,
)
from tests.support.clock import FakeClock

ENGINE = Engine("27.0", "1.46", "overlay2", "/var/lib/docker", "2", True, True, "device_request")
T = TypeVar("T")
HOLDING = (ObservedState.RUNNING, ObservedState.PAUSED)


@dataclass
class Faults:
    """What goes wrong. Sets of verbs are used up by the next call of each: `{"create"}` fails one create."""

    is_down: bool = False
    """The engine does not answer at all."""
    answer_lost: set[str] = field(default_factory=set)
    """The verb has its effect, and its answer never arrives."""
    refuse_start: WorkloadError | None = None
    refuse_pulls: list[WorkloadError] = field(default_factory=list)
    foreign_ports: set[int] = field(default_factory=set)
    """Host ports that a program of the machine holds."""
    foreign_networks: set[str] = field(default_factory=set)
    """Subnets of which somebody else has a network with the name that ours would have."""
    unpublished_ports: set[int] = field(default_factory=set)
    """Host ports that do not lead to their container, though the engine was told so."""
    starts_late: bool = False
    """A start that was asked for earlier, by a daemon that is gone, comes just before the next one."""
    exit_at_start: int | None = None
    """The next process ends at once with this code."""
    pull_gate: asyncio.Event | None = None
    """Pulls wait for it."""
    stop_gate: asyncio.Event | None = None
    """Stops wait for it: the workload takes its time to end. Whoever asked may be gone by then."""
    notebook_bugs: dict[int, Exception] = field(default_factory=dict)
    """What nobody foresaw, by contract whose note is read."""


class FakeRuntime:
    """One engine. It outlives the daemons that use it, as a real one does."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.images: dict[str, ImageFacts] = {}
        self.registry: dict[str, ImageFacts] = {}
        self.containers: dict[int, Observed] = {}
        self.placements: dict[int, Placement] = {}
        self.networks: dict[int, str] = {}
        self.unreadable: set[int] = set()
        """Containers whose labels somebody has spoilt, by contract."""
        self.authorized: dict[int, tuple[str, ...] | None] = {}
        self.authorized_older: set[int] = set()
        """Contracts of these whose container was said to be of an older generation."""
        """Who may log in, by contract."""
        self.chains: dict[int, str] = {}
        """Certificates of Jupyter, by contract."""
        self.notebooks: dict[int, str] = {}
        """What is noted of Jupyter, by contract."""
        self.faults = Faults()
        self.calls: list[tuple[str, int]] = []
        self.logins: list[RegistryLogin | None] = []
        self.violations: list[str] = []
        self._ending: set[int] = set()
        self._listeners: set[asyncio.Queue[int | None]] = set()
        self._serial = 0

    # The Runtime protocol

    async def engine(self) -> Engine:
        await self._answering("engine")
        return ENGINE

    async def image(self, reference: str) -> ImageFacts | None:
        await self._answering("image")
        return self.images.get(reference)

    async def pull(self, reference: str, login: RegistryLogin | None, progress: Progress) -> ImageFacts:
        await self._answering("pull")
        self.logins.append(login)
        progress(f"pulling {reference}")
        if self.faults.pull_gate is not None:
            await self.faults.pull_gate.wait()
        progress(f"unpacking {reference}")
        await asyncio.sleep(0.005)
        if self.faults.refuse_pulls:
            raise self.faults.refuse_pulls.pop(0)
        if reference not in self.registry:
            raise WorkloadError("image_not_found", f"cannot pull {reference}: there is no such image or tag")
        self.images[reference] = self.registry[reference]
        return self._answer("pull", self.images[reference])

    async def create(self, placement: Placement) -> str:
        contract = placement.contract
        contract_id = contract.contract_id
        await self._answering("create", contract_id)
        existing = self.containers.get(contract_id)
        if existing is not None:
            if self.placements[contract_id] != placement:
                raise WorkloadError("name_taken", f"cannot create C.{contract_id}: the name is in use")
            return existing.container_id
        if contract.spec.image not in self.images:
            self._broken(f"create of C.{contract_id} without its image")
        subnet = IPv4Network(placement.subnet)
        if any(subnet.overlaps(IPv4Network(net)) for owner, net in self.networks.items() if owner != contract_id):
            raise WorkloadError("subnet_taken", f"cannot create C.{contract_id}: the subnet is in use")
        if placement.subnet in self.faults.foreign_networks:
            raise WorkloadError("network_exists", f"cannot create C.{contract_id}: there is a network of this name")
        self.networks[contract_id] = placement.subnet
        self.placements[contract_id] = placement
        self.containers[contract_id] = Observed(
            contract_id=contract_id,
            generation=contract.generation,
            name=f"C.{contract_id}",
            container_id=self._next_id(),
            state=ObservedState.CREATED,
            gpu_uuids=placement.gpu_uuids,
            ports=placement.ports,
            end_at=contract.end_at,
        )
        self._changed(contract_id)
        return self._answer("create", self.containers[contract_id].container_id)

    async def authorize(self, contract: Contract, chain: str | None = None, *, is_older: bool = False) -> None:
        await self._answering("authorize", contract.contract_id)
        if chain is not None:
            self.chains[contract.contract_id] = chain
        self.authorized[contract.contract_id] = contract.ssh_keys
        (self.authorized_older.add if is_older else self.authorized_older.discard)(contract.contract_id)

    async def notebook(self, contract_id: int) -> str | None:
        await self._answering("notebook", contract_id)
        if contract_id in self.faults.notebook_bugs:
            raise self.faults.notebook_bugs[contract_id]
        return self.notebooks.get(contract_id)

    async def start(self, contract_id: int) -> Started:
        await self._answering("start", contract_id)
        container = self.containers.get(contract_id)
        if container is None:
            raise WorkloadError("not_found", f"cannot start C.{contract_id}: it does not exist")
        if container.state is ObservedState.RUNNING:
            return Started(container, was_running=True)
        if container.state not in (ObservedState.CREATED, ObservedState.EXITED):
            raise WorkloadError("engine_conflict", f"cannot start C.{contract_id}: it is {container.state}")
        if self.faults.refuse_start is not None:
            raise self.faults.refuse_start
        if any(port.host_port in self.faults.foreign_ports for port in container.ports):
            raise WorkloadError("port_taken", f"cannot start C.{contract_id}: another program holds a port")
        self._check_exclusive(container)
        now = self._now()
        self.containers[contract_id] = replace(
            container,
            state=ObservedState.RUNNING,
            pid=4000 + contract_id,
            started_at=now,
            finished_at=None,
            exit_code=None,
        )
        if self.faults.exit_at_start is not None:
            code, self.faults.exit_at_start = self.faults.exit_at_start, None
            self._end(contract_id, code)
        self._changed(contract_id)
        started = Started(self.containers[contract_id], was_running=self.faults.starts_late)
        self.faults.starts_late = False
        return self._answer("start", started)

    async def stop(self, contract_id: int, grace_s: float) -> None:
        await self._answering("stop", contract_id)
        container = self.containers.get(contract_id)
        if container is not None and container.state in HOLDING:
            self._ending.add(contract_id)
            if self.faults.stop_gate is not None:
                await self.faults.stop_gate.wait()
            self._finish_stop(contract_id, 143 if grace_s else 137)
        self._answer("stop", None)

    async def discard(self, contract_id: int) -> None:
        await self._answering("discard", contract_id)
        if self.containers.pop(contract_id, None) is not None:
            self._changed(contract_id)
        self.placements.pop(contract_id, None)
        self._answer("discard", None)

    async def remove(self, contract_id: int) -> None:
        await self._answering("remove", contract_id)
        if self.containers.pop(contract_id, None) is not None:
            self._changed(contract_id)
        self.placements.pop(contract_id, None)
        self.networks.pop(contract_id, None)
        self._answer("remove", None)

    async def observe(self) -> Found:
        await self._answering("observe")
        readable = tuple(one for number, one in self.containers.items() if number not in self.unreadable)
        found = Found(readable, tuple(self._apart(number) for number in self.unreadable if number in self.containers))
        await asyncio.sleep(0)
        return found

    async def inspect(self, contract_id: int) -> Observed | None:
        await self._answering("inspect", contract_id)
        if contract_id in self.containers and contract_id in self.unreadable:
            raise _unreadable(contract_id)
        return self.containers.get(contract_id)

    async def inventory(self) -> tuple[Present, ...]:
        await self._answering("inventory")
        found = []
        for contract_id in sorted({*self.containers, *self.networks}):
            subnets = (self.networks[contract_id],) if contract_id in self.networks else ()
            one = self.containers.get(contract_id)
            if one is None:
                found.append(Present(contract_id, subnets=subnets))
                continue
            promised = frozenset((port.host_port, port.protocol) for port in one.ports)
            published = {pair for pair in promised if pair[0] not in self.faults.unpublished_ports}
            found.append(
                Present(
                    contract_id,
                    one.container_id,
                    one.generation,
                    one.state,
                    one.gpu_uuids,
                    promised,
                    frozenset(published) if one.state is ObservedState.RUNNING else frozenset(),
                    subnets,
                )
            )
        return tuple(found)

    async def logs(self, contract_id: int, tail: int) -> str:
        await self._answering("logs", contract_id)
        if contract_id not in self.containers:
            raise WorkloadError("not_found", f"cannot read the logs of C.{contract_id}: it does not exist")
        return "".join(f"line {number}\n" for number in range(3)[-tail:])

    async def events(self) -> AsyncIterator[int]:
        await self._answering("events")
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        self._listeners.add(queue)
        queue.put_nowait(ANY_CONTRACT)
        try:
            while (contract_id := await queue.get()) is not None:
                yield contract_id
        finally:
            self._listeners.discard(queue)

    # What happens without kaalia

    def add_image(self, reference: str, facts: ImageFacts, *, is_present: bool = True) -> None:
        self.registry[reference] = facts
        if is_present:
            self.images[reference] = facts

    def exit(self, contract_id: int, code: int, *, oom_killed: bool = False) -> None:
        """The process ends."""
        self._end(contract_id, code)
        self.containers[contract_id] = replace(self.containers[contract_id], oom_killed=oom_killed)

    def finish_stops(self) -> None:
        """The engine carries out the stops that it was asked for, whether anybody still waits for the answer or not."""
        for contract_id in tuple(self._ending):
            self._finish_stop(contract_id, 137)
        if self.faults.stop_gate is not None:
            self.faults.stop_gate.set()

    def set_state(self, contract_id: int, state: ObservedState) -> None:
        """Somebody with root pauses, unpauses or breaks the container."""
        self.containers[contract_id] = replace(self.containers[contract_id], state=state)
        self._changed(contract_id)

    def vanish(self, contract_id: int) -> None:
        """Somebody with root removes the container."""
        del self.containers[contract_id]
        self._changed(contract_id)

    def go_down(self) -> None:
        """The engine stops; containers run on, as with live restore."""
        self.faults.is_down = True
        for queue in self._listeners:
            queue.put_nowait(None)

    def come_up(self) -> None:
        self.faults.is_down = False

    def reboot(self, *, exit_code: int = 255) -> None:
        """Power cycle: every process is gone; the engine notices when it comes up."""
        for contract_id, container in self.containers.items():
            if container.state in HOLDING:
                self._end(contract_id, exit_code)

    def restart(self, *, exit_code: int = 137) -> None:
        """The engine restarts without live restore, and is back before anybody looks."""
        for queue in self._listeners:
            queue.put_nowait(None)
        self.reboot(exit_code=exit_code)

    def running(self) -> dict[int, Observed]:
        return {number: one for number, one in self.containers.items() if one.state is ObservedState.RUNNING}

    def count(self, verb: str) -> int:
        return sum(name == verb for name, _ in self.calls)

    # Inside

    async def _answering(self, verb: str, contract_id: int = 0) -> None:
        self.calls.append((verb, contract_id))
        await asyncio.sleep(0)
        if self.faults.is_down:
            raise _unavailable(verb)

    def _answer(self, verb: str, result: T) -> T:
        if verb in self.faults.answer_lost:
            self.faults.answer_lost.discard(verb)
            raise _unavailable(verb)
        return result

    def _finish_stop(self, contract_id: int, code: int) -> None:
        if contract_id in self._ending and contract_id in self.containers:
            self._end(contract_id, code)

    def _end(self, contract_id: int, code: int) -> None:
        container = self.containers[contract_id]
        self._ending.discard(contract_id)
        self.containers[contract_id] = replace(
            container, state=ObservedState.EXITED, pid=None, finished_at=self._now(), exit_code=code
        )
        self._changed(contract_id)

    def _now(self) -> datetime:
        """Starting and ending a process takes a millisecond."""
        self._clock.advance(0.001)
        return self._clock.now()

    def _changed(self, contract_id: int) -> None:
        for queue in self._listeners:
            queue.put_nowait(contract_id)

    def _check_exclusive(self, starting: Observed) -> None:
        for other in self.containers.values():
            if other.contract_id == starting.contract_id or other.state not in HOLDING:
                continue
            if gpus := set(other.gpu_uuids) & set(starting.gpu_uuids):
                self._broken(f"{starting.name} and {other.name} run with {sorted(gpus)}")
            ports = {(p.host_port, p.protocol) for p in other.ports} & {
                (p.host_port, p.protocol) for p in starting.ports
            }
            if ports:
                self._broken(f"{starting.name} and {other.name} run with ports {sorted(ports)}")

    def _apart(self, contract_id: int) -> SetApart:
        container = self.containers[contract_id]
        whose = frozenset({contract_id})
        return SetApart(container.name, container.container_id, whose, _unreadable(contract_id).problem)

    def _broken(self, sentence: str) -> None:
        self.violations.append(sentence)
        raise AssertionError(sentence)

    def _next_id(self) -> str:
        self._serial += 1
        return f"{self._serial:064x}"


def _unavailable(verb: str) -> WorkloadError:
    return WorkloadError("engine_unavailable", f"cannot {verb}: the container engine does not answer")


def _unreadable(contract_id: int) -> WorkloadError:
    return WorkloadError("labels_unreadable", f"cannot read the kaalia labels of C.{contract_id}")
