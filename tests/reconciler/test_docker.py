"""The reconciler on a real Docker Engine: the road that FakeRuntime stands for."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from kaalia.clock import SystemClock
from kaalia.contracts.contract import Contract, Desired
from kaalia.model.machine import PortRange
from kaalia.model.workload import PortRequest, WorkloadState, WorkloadStatus
from kaalia.reconciler.launch import Settings
from kaalia.reconciler.service import ReconcilerService
from kaalia.runtime.base import RegistryLogin
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from kaalia.store import claims, contracts, enrolment, intents, machine, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from kaalia.store.enrolment import AcceptedSnapshot
from kaalia.units import GIB, MIB
from tests.reconciler.rig import LISTING
from tests.support.builders import build_contract, build_report
from tests.support.containers import ports_of
from tests.support.docker_engine import PrivateDocker
from tests.support.placements import MACHINE, build_spec

pytestmark = pytest.mark.docker

FAST = Settings(subnet_pool="172.29.0.0/24", stop_grace_s=1.0)


@dataclass
class World:
    """Store and engine outlive the reconciler, which may die and come back."""

    store: Database
    changes: Changes
    engine: DockerEngine
    clock: SystemClock
    task: asyncio.Task[None] | None = None
    runtime: ContainerRuntime | None = None

    async def begin(self) -> None:
        self.runtime = ContainerRuntime(
            self.engine, MACHINE, ports=ports_of(self.engine), sandboxes=Sandboxes(self.engine, MACHINE)
        )
        service = ReconcilerService(
            self.store,
            self.changes,
            self.runtime,
            self.clock,
            MACHINE,
            self._no_login,
            FAST,
            lambda port, protocol: False,
            booted_at=self.clock.now() - timedelta(days=1),
        )
        self.task = asyncio.create_task(service.run())

    async def _no_login(self, contract_id: int) -> RegistryLogin | None:
        return None

    async def die(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        if self.runtime is not None:
            await self.runtime.close()

    async def put(self, made: Contract) -> None:
        await self.store.transaction(lambda tx: contracts.upsert(tx, made, self.clock.now()), Topic.CONTRACTS)

    async def row(self) -> WorkloadStatus | None:
        return await self.store.read(lambda tx: workloads.get(tx, 51))

    async def until(self, state: WorkloadState, timeout_s: float = 30.0) -> WorkloadStatus:
        return await self.until_row(lambda row: row.state is state, timeout_s)

    async def until_row(self, holds: Callable[[WorkloadStatus], bool], timeout_s: float = 30.0) -> WorkloadStatus:
        bell = self.changes.subscribe(Topic.WORKLOADS)
        row = await self.row()
        deadline_s = time.monotonic() + timeout_s
        while row is None or not holds(row):
            assert time.monotonic() < deadline_s, row
            bell.clear()
            await asyncio.wait_for(bell.wait(), timeout_s)
            row = await self.row()
        return row


@pytest_asyncio.fixture
async def world(
    store: Database, changes: Changes, docker_engine: DockerEngine, docker_host: PrivateDocker
) -> AsyncIterator[World]:
    made = World(store, changes, docker_engine, SystemClock())
    now = made.clock.now()
    report = build_report(now, gpus=0)
    first = random.randrange(42000, 48000, 100)
    network = replace(report.network, port_range=PortRange(first, first + 50))
    memory = replace(report.memory, total_bytes=4 * GIB)
    cpu = replace(report.cpu, logical_cores=2)

    def prepare(tx: Any) -> None:
        machine.put_report(tx, replace(report, network=network, memory=memory, cpu=cpu))
        machine.put_listing(tx, LISTING)
        enrolment.put_snapshot(tx, AcceptedSnapshot(1, 1, now + timedelta(hours=1), "{}", now))

    await store.transaction(prepare)
    await made.begin()
    yield made
    await made.die()


def contract(**changes: Any) -> Contract:
    spec = build_spec(args=("sleep", "1000"), ports=(PortRequest(8080), PortRequest(70000)), disk_bytes=256 * MIB)
    made = build_contract(51, at=SystemClock().now(), spec=spec)
    return replace(made, **changes)


async def test_a_whole_life_on_docker(world: World, docker_host: PrivateDocker) -> None:
    await world.put(contract())
    running = await world.until(WorkloadState.RUNNING)
    inspected = docker_host.request("GET", "/containers/C.51/json")
    # A name alone means: without this variable of the image.
    env = dict(line.split("=", 1) for line in inspected["Config"]["Env"] if "=" in line)
    by_request = {port.requested: port for port in running.ports}
    assert env["VAST_TCP_PORT_8080"] == str(by_request[8080].host_port)
    assert by_request[70000].container_port == by_request[70000].host_port

    await world.put(contract(restart_count=1))
    rebooted = await world.until_row(lambda row: row.restarts_done == 1)
    assert rebooted.state is WorkloadState.RUNNING
    assert rebooted.started_at != running.started_at

    await world.put(contract(restart_count=1, desired=Desired.STOPPED))
    await world.until(WorkloadState.STOPPED)
    await world.put(contract(restart_count=1))
    again = await world.until(WorkloadState.RUNNING)
    assert (again.container_id, again.ports) == (running.container_id, running.ports)

    await world.put(contract(desired=Desired.ENDED))
    await world.until(WorkloadState.ENDED)
    assert not docker_host.has_container("C.51")
    assert not docker_host.has_container("kaalia-sandbox-51")
    assert await world.store.read(claims.all_claims) == ()
    assert await world.store.read(intents.open_intents) == ()


async def test_a_new_daemon_adopts_and_announces_within_two_seconds(world: World) -> None:
    await world.put(contract())
    running = await world.until(WorkloadState.RUNNING)
    await world.die()
    died_at = world.clock.now()

    began_s = time.monotonic()
    await world.begin()
    announced = await world.until_row(lambda row: row.as_of > died_at)

    assert time.monotonic() - began_s < 2.0
    assert replace(announced, as_of=running.as_of) == running


async def test_a_container_killed_or_removed_behind_our_back_is_noticed(
    world: World, docker_host: PrivateDocker
) -> None:
    await world.put(contract())
    await world.until(WorkloadState.RUNNING)
    docker_host.request("POST", "/containers/C.51/kill")
    exited = await world.until(WorkloadState.EXITED, timeout_s=5)
    assert exited.exit_code == 137

    docker_host.request("DELETE", "/containers/C.51?force=1")
    failed = await world.until(WorkloadState.FAILED, timeout_s=5)
    assert failed.problem is not None
    assert failed.problem.code == "workload_lost"


async def test_a_command_that_does_not_exist_fails_and_leaves_nothing(world: World, docker_host: PrivateDocker) -> None:
    made = contract()
    await world.put(replace(made, spec=replace(made.spec, args=("/no/such/program",))))

    failed = await world.until(WorkloadState.FAILED)

    assert failed.problem is not None
    assert failed.problem.code == "container_start_failed"
    assert not docker_host.has_container("C.51")
    assert await world.store.read(claims.all_claims) == ()
