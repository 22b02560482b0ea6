"""A measured size above the rented one: a word to the renter, then a stop that keeps the data."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kaalia.contracts.contract import Contract, Desired
from kaalia.contracts.disk import Overrun
from kaalia.model.workload import WorkloadState
from kaalia.runtime.base import ImageFacts
from kaalia.store import disk, images
from kaalia.store.changes import Topic
from kaalia.units import GB
from tests.reconciler.rig import IMAGE, Rig, contract

PLAIN = "success, running docker.io/library/busybox:1.36/args"


def over(size_gb: float, contract_id: int = 51, generation: int = 1) -> Overrun:
    return Overrun(contract_id, generation, round(size_gb * GB), 10 * GB)


async def measure(rig: Rig, found: Iterable[Overrun]) -> None:
    await rig.store.transaction(lambda tx: disk.put_overruns(tx, found), Topic.CONTRACTS)
    await rig.settle()


async def test_a_warning_is_told_and_taken_back_and_nothing_is_stopped(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()

    await measure(rig, [over(10.5)])
    warned = await rig.row()
    await rig.settle()
    await measure(rig, [])

    assert warned.state is WorkloadState.RUNNING
    assert warned.status_msg.startswith(f"{PLAIN}; warning: it holds 9.8 GiB")
    assert (await rig.row()).status_msg == PLAIN
    assert rig.runtime.count("stop") == 0


async def test_past_the_margin_it_is_stopped_with_its_data_and_a_code(rig: Rig) -> None:
    await rig.put(contract(51), contract(52))
    await rig.settle()

    await measure(rig, [over(12)])

    row = await rig.row()
    assert row.state is WorkloadState.STOPPED
    assert row.problem is not None
    assert (row.problem.code, row.container_id is not None) == ("disk_limit_exceeded", True)
    assert "12000000000" in row.problem.evidence
    assert {claim for claim in await rig.claims() if claim.kind == "gpu"} == set()
    assert await rig.state(52) is WorkloadState.RUNNING
    assert ("stop", 52) not in rig.runtime.calls
    assert 51 in rig.runtime.containers


async def test_a_start_is_refused_with_the_same_code_until_it_is_small_again(rig: Rig) -> None:
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()
    await measure(rig, [over(12)])
    assert (await rig.row()).problem is None, "the renter stopped it, and that is all there is to say"
    starts = rig.runtime.count("start")

    await rig.put(contract(restart_count=1))
    await rig.settle()

    row = await rig.row()
    assert row.state is WorkloadState.STOPPED
    assert row.problem is not None
    assert row.problem.code == "disk_limit_exceeded"
    assert row.restarts_done == 1, "the reboot is answered"
    assert rig.runtime.count("start") == starts

    await measure(rig, [])
    assert await rig.state() is WorkloadState.RUNNING
    assert (await rig.row()).problem is None


async def test_a_recycled_instance_is_not_held_to_what_its_forerunner_held(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await measure(rig, [over(12)])

    await rig.put(contract(generation=2))
    await rig.settle()

    assert (await rig.state(), (await rig.row()).generation) == (WorkloadState.RUNNING, 2)


async def test_only_what_kaalia_brought_here_is_written_down_as_pulled(rig: Rig) -> None:
    rig.runtime.add_image("there", ImageFacts("sha256:there"))
    rig.runtime.add_image("new", ImageFacts("sha256:new"), is_present=False)
    await rig.put(*(_of(number, image) for number, image in ((51, "there"), (52, "new"))))
    await rig.settle()

    (row,) = await rig.store.read(images.all_pulled)
    assert (row.image_id, row.reference) == ("sha256:new", "new:latest")


async def test_an_image_that_was_here_before_a_pull_with_a_login_is_not_kaalias(rig: Rig) -> None:
    await rig.put(_of(51, IMAGE, needs_registry_login=True))
    await rig.settle()

    assert rig.runtime.count("pull") == 1
    assert await rig.store.read(images.all_pulled) == ()


def _of(contract_id: int, image: str, **changes: Any) -> Contract:
    made = contract(contract_id)
    return replace(made, spec=replace(made.spec, image=image, **changes))
