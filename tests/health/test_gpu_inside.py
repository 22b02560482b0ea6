"""A container that may no longer use its GPUs is told with its contract, by observation, and clears by it."""

from collections.abc import Iterable, Mapping

import pytest

from kaalia.contracts.local import LOCAL_FIRST
from kaalia.errors import HostError
from kaalia.health.gpu_inside import SOURCE, UNSEEN_LOOKS, GpuInsideService
from kaalia.host.gpu_access import GpuAccess
from kaalia.model.health import Condition, Severity
from kaalia.model.workload import WorkloadState
from kaalia.store import conditions, machine, workloads
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.builders import build_report, build_status
from tests.support.clock import START, FakeClock

GPUS = ("GPU-1", "GPU-2")
WELL = GpuAccess({"nvidia0": 0, "nvidia1": 0})
LOST = GpuAccess({"nvidia0": 0, "nvidia1": 1})


class Kernel:
    """What each container may use, by its id."""

    def __init__(self) -> None:
        self.access: dict[str, GpuAccess] = {}
        self.asked: list[set[str]] = []
        self.is_broken = False

    async def look(self, container_ids: Iterable[str]) -> Mapping[str, GpuAccess]:
        self.asked.append(set(container_ids))
        if self.is_broken:
            raise HostError("command_timeout", "cannot finish")
        return self.access


class Bench:
    def __init__(self, store: Database, changes: Changes, clock: FakeClock) -> None:
        self.kernel = Kernel()
        self._store = store
        self.service = GpuInsideService(store, changes, clock, look=self.kernel.look)

    async def run(
        self, number: int, state: WorkloadState = WorkloadState.RUNNING, gpus: tuple[str, ...] = GPUS
    ) -> None:
        row = build_status(number, state=state, gpu_uuids=gpus, container_id=f"id-{number}")
        await self._store.transaction(lambda tx: workloads.put(tx, row))

    async def look(self) -> dict[str, Condition]:
        await self.service.look()
        found = await self._store.read(conditions.all_open)
        return {one.condition.scope: one.condition for one in found if one.source == SOURCE}


@pytest.fixture
def bench(store: Database, changes: Changes, clock: FakeClock) -> Bench:
    return Bench(store, changes, clock)


async def test_a_lost_gpu_is_told_with_its_contract_and_clears_when_it_is_back(bench: Bench) -> None:
    await bench.run(51)
    await bench.run(52)
    bench.kernel.access = {"id-51": WELL, "id-52": LOST}

    told = await bench.look()

    assert set(told) == {"C.52"}
    found = told["C.52"]
    assert (found.problem.code, found.severity) == ("gpu_lost_in_container", Severity.CRITICAL)
    assert "/dev/nvidia1" in found.problem.evidence
    assert "daemon-reload" in found.problem.evidence
    assert "vastai reboot instance 52" in found.problem.remedy
    bench.kernel.access["id-52"] = WELL
    assert not await bench.look()


async def test_only_running_gpu_contracts_of_renters_are_looked_at(bench: Bench) -> None:
    await bench.run(51)
    await bench.run(52, WorkloadState.STOPPED)
    await bench.run(53, gpus=())
    await bench.run(LOCAL_FIRST)
    bench.kernel.access = {"id-51": WELL}

    assert not await bench.look()
    assert bench.kernel.asked == [{"id-51"}]


async def test_without_gpu_contracts_nobody_is_asked(bench: Bench) -> None:
    assert not await bench.look()
    assert not bench.kernel.asked


async def test_what_one_look_cannot_tell_stays_as_it_was(bench: Bench) -> None:
    await bench.run(51)
    bench.kernel.access = {"id-51": LOST}
    before = await bench.look()

    bench.kernel.is_broken = True

    assert await bench.look() == before
    for _ in range(UNSEEN_LOOKS):
        told = await bench.look()
    assert (told["C.51"].problem.code, told["C.51"].severity) == ("gpu_inside_unseen", Severity.UNKNOWN)
    bench.kernel.is_broken = False
    bench.kernel.access = {"id-51": WELL}
    assert not await bench.look()


async def test_fewer_nodes_than_gpus_is_a_warning_since_a_tenant_can_do_that(bench: Bench) -> None:
    await bench.run(51)
    bench.kernel.access = {"id-51": GpuAccess({"nvidia0": 0})}

    told = await bench.look()

    assert (told["C.51"].problem.code, told["C.51"].severity) == ("gpu_missing_in_container", Severity.WARN)


async def test_a_simulated_driver_has_no_nodes(bench: Bench, store: Database) -> None:
    await store.transaction(lambda tx: machine.put_report(tx, build_report(START)))
    await bench.run(51)
    bench.kernel.access = {"id-51": GpuAccess({})}

    assert not await bench.look()
