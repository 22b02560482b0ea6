"""What a contract holds is taken with the intent, and given back once: when it stopped, or when it is proven gone."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.errors import WorkloadError
from kaalia.model.workload import WorkloadState
from kaalia.reconciler import quantities
from kaalia.runtime.base import ObservedState
from kaalia.store import amounts, contracts
from kaalia.store.amounts import AmountKind, OwnerKind
from kaalia.units import GIB
from tests.reconciler.rig import Rig, contract
from tests.support.builders import build_report

# The machine of the rig has 48 cores, 256 GiB and two GPUs, and keeps 5 % of its memory.
HALF = {"disk": 16 * GIB, "cpu": 24_000, "ram": int(256 * GIB * 0.95) // 2}
STOPPED = {"disk": 16 * GIB}


def sized(contract_id: int, gib: int, **changes: Any) -> Contract:
    made = contract(contract_id, **changes)
    return replace(made, spec=replace(made.spec, disk_bytes=gib * GIB))


async def shrink(rig: Rig, gib: int) -> None:
    """A machine with a small disk."""
    report = build_report(rig.clock.now())
    assert report.disk is not None
    await rig.prepare(replace(report, disk=replace(report.disk, total_bytes=gib * GIB)))


async def launched(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    assert await rig.state() is WorkloadState.RUNNING


async def test_disk_cpu_and_memory_are_taken_with_the_intent(rig: Rig) -> None:
    rig.crash_at = "create.intended"
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.idle()

    assert await rig.amounts() == pytest.approx(HALF, abs=1)
    assert await rig.open_intents() == ["launch"]
    assert rig.runtime.containers == {}


async def test_a_pull_holds_the_disk_already(rig: Rig) -> None:
    rig.runtime.images.clear()
    rig.crash_at = "pull.intended"
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.idle()

    assert set(await rig.amounts()) == {"disk", "cpu", "ram"}
    assert await rig.open_intents() == ["pull"]


async def test_a_stopped_contract_has_its_disk_and_nothing_that_runs(rig: Rig) -> None:
    await launched(rig)
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    assert await rig.amounts() == STOPPED

    await rig.put(contract())
    await rig.settle()
    assert await rig.amounts() == pytest.approx(HALF, abs=1)


async def test_a_loser_of_the_gpus_keeps_its_disk_only(rig: Rig) -> None:
    await rig.put(replace(contract(), kind=ContractKind.INTERRUPTIBLE))
    await rig.settle()
    await rig.put(contract(52, gpus=2))
    await rig.settle()

    assert await rig.state() is WorkloadState.STOPPED
    assert await rig.amounts() == STOPPED
    assert set(await rig.amounts(52)) == {"disk", "cpu", "ram"}


async def test_one_that_exited_loses_what_runs_with_its_gpus(rig: Rig) -> None:
    await rig.put(replace(contract(), kind=ContractKind.INTERRUPTIBLE))
    await rig.settle()
    rig.runtime.exit(51, 0)
    await rig.later(seconds=60)
    assert set(await rig.amounts()) == {"disk", "cpu", "ram"}

    await rig.put(contract(52, gpus=2))
    await rig.settle()

    assert await rig.state() is WorkloadState.EXITED
    assert await rig.amounts() == STOPPED
    assert await rig.state(52) is WorkloadState.RUNNING


@pytest.mark.parametrize("reason", ["stopped", "outbid", "destroyed"])
async def test_a_pull_that_is_broken_off_gives_everything_back(rig: Rig, reason: str) -> None:
    rig.runtime.images.clear()
    rig.runtime.faults.pull_gate = asyncio.Event()
    bid = replace(contract(), kind=ContractKind.INTERRUPTIBLE)
    await rig.put(bid)
    await rig.service.reconcile()
    await rig.until(lambda: rig.is_in(WorkloadState.PULLING))
    await rig.until(lambda: _pulls(rig))
    assert set(await rig.amounts()) == {"disk", "cpu", "ram"}

    match reason:
        case "stopped":
            await rig.put(replace(bid, desired=Desired.STOPPED))
        case "destroyed":
            await rig.put(replace(bid, desired=Desired.ENDED))
        case _:
            await rig.put(contract(52, gpus=2))
    await rig.service.reconcile()
    rig.runtime.faults.pull_gate.set()
    await rig.settle()

    assert (await rig.claims(), await rig.amounts()) == (set(), {})
    assert 51 not in rig.runtime.containers


async def _pulls(rig: Rig) -> bool:
    return rig.runtime.count("pull") > 0


async def test_what_exited_keeps_what_its_gpus_keep(rig: Rig) -> None:
    await launched(rig)
    rig.runtime.exit(51, 0)
    await rig.later(seconds=60)

    assert await rig.state() is WorkloadState.EXITED
    assert {claim.kind for claim in await rig.claims()} == {"gpu", "port/tcp", "subnet"}
    assert set(await rig.amounts()) == {"disk", "cpu", "ram"}


async def test_a_dead_container_has_its_disk_still(rig: Rig) -> None:
    await launched(rig)
    rig.runtime.set_state(51, ObservedState.DEAD)
    await rig.later(seconds=60)

    assert await rig.amounts() == STOPPED
    assert {claim.kind for claim in await rig.claims()} == {"port/tcp", "subnet"}


async def test_destroyed_is_given_back_after_the_container_is_gone(rig: Rig) -> None:
    await launched(rig)
    await rig.put(contract(desired=Desired.ENDED))
    rig.crash_at = "remove.done"
    await rig.service.reconcile()
    await rig.idle()
    assert rig.runtime.containers == {}
    assert await rig.amounts() == pytest.approx(HALF, abs=1)  # gone, but nobody has proven it to the books
    assert await rig.claims() != set()

    await rig.restart()
    await rig.settle()

    assert await rig.amounts() == {}
    assert await rig.claims() == set()


async def test_a_removal_that_does_not_remove_gives_nothing_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await launched(rig)
    held = await rig.claims(), await rig.amounts()

    async def promise(contract_id: int) -> None:
        rig.runtime.calls.append(("remove", contract_id))

    monkeypatch.setattr(rig.runtime, "remove", promise)
    await rig.put(contract(desired=Desired.ENDED))
    await rig.service.reconcile()
    await rig.idle()

    assert rig.runtime.count("remove") == 1
    assert (await rig.claims(), await rig.amounts()) == held


async def test_a_launch_that_is_given_up_gives_back_once_its_container_is_proven_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.runtime.faults.refuse_start = WorkloadError("gpu_hook_failed", "cannot start C.51: no GPUs")
    remove = rig.runtime.remove

    async def promise(contract_id: int) -> None:
        rig.runtime.calls.append(("remove", contract_id))

    monkeypatch.setattr(rig.runtime, "remove", promise)
    await rig.put(contract())
    await rig.service.reconcile()
    await rig.idle()
    assert 51 in rig.runtime.containers
    assert await rig.claims() != set()
    assert set(await rig.amounts()) == {"disk", "cpu", "ram"}

    monkeypatch.setattr(rig.runtime, "remove", remove)
    await rig.later(seconds=200)

    assert await rig.state() is WorkloadState.FAILED
    assert rig.runtime.containers == {}
    assert (await rig.claims(), await rig.amounts()) == (set(), {})


async def test_a_start_that_is_given_up_keeps_the_disk(rig: Rig) -> None:
    await launched(rig)
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    rig.runtime.faults.refuse_start = WorkloadError("gpu_hook_failed", "cannot start C.51: no GPUs")
    await rig.put(contract())
    await rig.settle()

    assert await rig.state() is WorkloadState.FAILED
    assert await rig.amounts() == STOPPED


async def test_what_somebody_removed_is_given_back_with_its_network(rig: Rig) -> None:
    await launched(rig)
    rig.runtime.vanish(51)
    assert rig.runtime.networks != {}

    await rig.later(seconds=60)

    assert rig.runtime.networks == {}
    assert (await rig.claims(), await rig.amounts()) == (set(), {})
    assert await rig.open_intents() == []


async def test_a_waiting_contract_holds_nothing(rig: Rig) -> None:
    await rig.put(contract(51, gpus=2), contract(52))
    await rig.settle()

    assert await rig.state(52) is WorkloadState.WAITING
    assert (await rig.claims(52), await rig.amounts(52)) == (set(), {})


async def test_a_recycled_contract_keeps_its_place_all_the_while(rig: Rig) -> None:
    await shrink(rig, 16)
    await launched(rig)
    await rig.put(contract(generation=2))
    await rig.settle()

    assert await rig.state() is WorkloadState.RUNNING
    assert {one.generation for one in await rig.store.read(amounts.all_amounts)} == {2}


async def test_a_forgotten_contract_leaves_nothing_in_the_ledger(rig: Rig) -> None:
    await launched(rig)
    await rig.store.transaction(lambda tx: contracts.delete(tx, 51))
    await rig.settle()
    assert set(await rig.amounts()) == {"disk", "cpu", "ram"}  # the container runs on

    rig.runtime.vanish(51)
    await rig.later(seconds=60)

    assert (await rig.claims(), await rig.amounts()) == (set(), {})


async def test_books_without_amounts_get_them_from_what_exists_and_refuse_nothing(rig: Rig) -> None:
    await rig.put(sized(51, 30), sized(52, 30))
    await rig.settle()
    await rig.put(sized(52, 30, desired=Desired.STOPPED))
    await rig.settle()
    for number in (51, 52):
        await rig.store.transaction(partial(amounts.release, owner=OwnerKind.CONTRACT, owner_id=number))
    await shrink(rig, 40)

    await rig.restart()
    await rig.settle()

    assert await rig.state(51) is WorkloadState.RUNNING
    assert set(await rig.amounts(51)) == {"disk", "cpu", "ram"}
    assert await rig.amounts(52) == {"disk": 30 * GIB}
    assert rig.runtime.count("stop") == 1

    await rig.put(sized(52, 30))
    await rig.settle()
    assert await rig.state(52) is WorkloadState.RUNNING  # it has its disk already


async def test_the_ledger_refuses_what_the_planner_could_not_know(rig: Rig) -> None:
    """A container without a contract still has its bytes: the planner does not count it, the ledger does."""
    await shrink(rig, 40)
    await rig.put(sized(51, 30))
    await rig.settle()
    await rig.store.transaction(lambda tx: contracts.delete(tx, 51))
    await rig.put(sized(52, 30))
    await rig.settle()

    row = await rig.row(52)
    assert row.state is WorkloadState.PULLING
    assert "next attempt" in row.status_msg
    assert 52 not in rig.runtime.containers
    assert await rig.store.read(lambda tx: amounts.total(tx, AmountKind.DISK)) == 30 * GIB

    for _ in range(6):
        await rig.later(seconds=121)
    row = await rig.row(52)
    assert row.state is WorkloadState.FAILED
    assert row.problem is not None
    assert row.problem.code == "claim_exceeds"
    assert 51 in rig.runtime.running()


def test_a_machine_without_a_report_limits_nothing() -> None:
    assert quantities.limits(None) == {}
    assert quantities.limits(replace(build_report(), disk=None)) == {}


def test_a_contract_without_gpus_has_the_machine() -> None:
    found = quantities.of_contract(contract(gpus=0), 3, build_report(gpus=0), may_run=True)

    assert {(one.kind.value, one.generation) for one in found} == {("disk", 3), ("cpu", 3), ("ram", 3)}
    assert {one.kind.value: one.amount for one in found}["cpu"] == 48_000
