"""A newer generation takes the place of an older one: the image first, and what cannot be made leaves all as it is."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from kaalia.contracts.contract import Contract, Desired
from kaalia.contracts.disk import Overrun
from kaalia.errors import Problem, WorkloadError
from kaalia.model.workload import NotMade, PortRequest, WorkloadState, WorkloadStatus
from kaalia.runtime.base import ImageFacts
from kaalia.store import disk
from kaalia.store.changes import Topic
from kaalia.units import GB
from tests.reconciler.rig import IMAGE, Rig, contract, key_of
from tests.reconciler.test_recovery import LAUNCHING, RENEWING, crash_during

NEWER = ImageFacts("sha256:" + "2" * 64, (PortRequest(9000),))


def recycled(generation: int = 2, image: str = IMAGE, **changes: Any) -> Contract:
    made = contract(generation=generation, **changes)
    return replace(made, spec=replace(made.spec, image=image))


async def running(rig: Rig) -> WorkloadStatus:
    await rig.put(contract())
    await rig.settle()
    return await rig.row()


def verbs(rig: Rig, since: int) -> list[str]:
    """What was done, looks left out."""
    looks = ("observe", "inspect", "image", "authorize", "events")
    return [verb for verb, _ in rig.runtime.calls[since:] if verb not in looks]


async def begun(rig: Rig, newer: Contract) -> asyncio.Event:
    """A recycle whose pull is under way; set the event to let it come."""
    gate = rig.runtime.faults.pull_gate = asyncio.Event()
    await rig.put(newer)
    await rig.service.reconcile()
    await rig.until(lambda: _is_pulling(rig))
    return gate


async def _is_pulling(rig: Rig) -> bool:
    return rig.runtime.count("pull") > 0


async def test_the_old_one_runs_until_the_image_is_here_and_the_new_one_has_its_place(rig: Rig) -> None:
    before, claims, calls = await running(rig), await rig.claims(), len(rig.runtime.calls)
    rig.runtime.registry[IMAGE] = NEWER

    gate = await begun(rig, recycled())

    row = await rig.row()
    assert (row.state, row.generation, row.container_id) == (WorkloadState.RUNNING, 1, before.container_id)
    assert row.status_msg.startswith(("loading", "pulling"))
    assert 51 in rig.runtime.running()
    gate.set()
    await rig.idle()
    await rig.settle()

    after = await rig.row()
    assert (after.state, after.generation) == (WorkloadState.RUNNING, 2)
    assert after.container_id != before.container_id
    assert (after.ports, after.gpu_uuids) == (before.ports, before.gpu_uuids)
    assert {key_of(one) for one in await rig.claims()} == {key_of(one) for one in claims}
    assert verbs(rig, calls) == ["pull", "stop", "discard", "create", "start"]
    assert rig.runtime.images[IMAGE] == NEWER, "a fresh pull, though the image was here"
    assert await rig.open_intents() == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, "image_not_found"),
        (
            WorkloadError("registry_unauthorized", "cannot pull it: the registry refuses access"),
            "registry_unauthorized",
        ),
    ],
)
async def test_an_image_that_cannot_be_had_leaves_what_runs_alone(
    rig: Rig, error: WorkloadError | None, code: str
) -> None:
    before, calls = await running(rig), len(rig.runtime.calls)
    rig.runtime.faults.refuse_pulls = [error] if error else []
    image = IMAGE if error else "gone:1"

    await rig.put(recycled(image=image))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.generation, row.container_id) == (WorkloadState.RUNNING, 1, before.container_id)
    assert row.not_made is not None
    assert (row.not_made.generation, row.not_made.problem.code) == (2, code)
    assert f"[{code}], so it was not made anew" in row.status_msg
    assert verbs(rig, calls) == ["pull"]
    await rig.later(hours=1)
    assert verbs(rig, calls) == ["pull"], "it is not tried again until its renter asks"

    await rig.put(recycled(3))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.generation, row.not_made) == (WorkloadState.RUNNING, 3, None)
    assert "warning" not in row.status_msg


async def test_what_goes_on_can_be_rebooted_stopped_and_started(rig: Rig) -> None:
    before = await running(rig)
    await rig.put(recycled(image="gone:1"))
    await rig.settle()

    await rig.put(recycled(image="gone:1", restart_count=1))
    await rig.settle()
    row = await rig.row()
    assert (row.state, row.container_id, row.restarts_done) == (WorkloadState.RUNNING, before.container_id, 1)
    assert rig.runtime.count("stop") == 1
    await rig.put(recycled(image="gone:1", restart_count=1, desired=Desired.STOPPED))
    await rig.settle()
    assert (await rig.row()).generation == 1, "the marketplace takes no older generation after a newer one"
    await rig.put(recycled(image="gone:1", restart_count=1))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.container_id, row.generation) == (WorkloadState.RUNNING, before.container_id, 1)
    assert "image_not_found" in row.status_msg
    assert rig.runtime.count("pull") == 1


async def test_a_registry_that_will_do_later_is_asked_again_while_the_old_one_runs(rig: Rig) -> None:
    await running(rig)
    rig.runtime.faults.refuse_pulls = [WorkloadError("registry_unreachable", "cannot pull: no answer")]

    await rig.put(recycled())
    await rig.service.reconcile()
    await rig.idle()

    row = await rig.row()
    assert (row.state, row.generation, row.not_made) == (WorkloadState.RUNNING, 1, None)
    assert "next attempt in 5 s" in row.status_msg
    assert 51 in rig.runtime.running()
    await rig.later(seconds=6)
    assert ((await rig.row()).state, (await rig.row()).generation) == (WorkloadState.RUNNING, 2)


async def test_what_is_stopped_is_made_anew_at_its_next_start(rig: Rig) -> None:
    before = await running(rig)
    await rig.put(recycled(desired=Desired.STOPPED))
    await rig.settle()

    assert (await rig.state(), rig.runtime.count("discard")) == (WorkloadState.STOPPED, 0)
    assert rig.runtime.containers[51].container_id == before.container_id

    await rig.put(recycled())
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.generation, row.ports) == (WorkloadState.RUNNING, 2, before.ports)
    assert row.container_id != before.container_id


async def test_one_that_has_ended_and_cannot_be_made_anew_keeps_its_data_and_no_gpu(rig: Rig) -> None:
    before = await running(rig)
    rig.runtime.exit(51, 3)
    await rig.later(seconds=60)
    await rig.put(recycled(image="gone:1"))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.generation, row.container_id) == (WorkloadState.FAILED, 1, before.container_id)
    assert row.problem is not None
    assert row.problem.code == "image_not_found"
    assert not [one for one in await rig.claims() if one.kind == "gpu"]
    other = contract(52, gpus=2)
    await rig.put(other)
    await rig.settle()
    assert await rig.state(52) is WorkloadState.RUNNING, "nobody waits for its GPU"
    await rig.put(replace(other, desired=Desired.ENDED))
    await rig.settle()

    await rig.put(recycled(image="gone:1", restart_count=1))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.container_id) == (WorkloadState.RUNNING, before.container_id)


async def test_a_stop_ends_the_pull_and_a_newer_word_begins_another(rig: Rig) -> None:
    await running(rig)
    gate = await begun(rig, recycled())

    await rig.put(recycled(desired=Desired.STOPPED))
    await rig.service.reconcile()
    await rig.idle()
    await rig.settle()
    assert (await rig.state(), rig.runtime.count("discard")) == (WorkloadState.STOPPED, 0)

    rig.runtime.add_image("other:1", NEWER, is_present=False)
    await rig.put(recycled())
    await rig.service.reconcile()
    await rig.until(lambda: _pulls_again(rig))
    await rig.put(recycled(3, image="other:1"))
    await rig.service.reconcile()
    gate.set()
    await rig.idle()
    await rig.settle()

    assert (await rig.row()).generation == 3
    assert rig.runtime.placements[51].contract.spec.image == "other:1"
    assert rig.runtime.count("discard") == 1


async def _pulls_again(rig: Rig) -> bool:
    return rig.runtime.count("pull") > 1


@pytest.mark.parametrize("point", [*RENEWING, *LAUNCHING])
async def test_a_crash_in_a_recycle_ends_in_one_container_of_the_new_generation(rig: Rig, point: str) -> None:
    before = await running(rig)
    await rig.put(recycled())
    await crash_during(rig, point)

    await rig.settle()

    row = await rig.row()
    assert (row.state, row.generation, row.ports) == (WorkloadState.RUNNING, 2, before.ports)
    assert rig.runtime.containers[51].generation == 2
    assert rig.runtime.count("discard") <= 2
    assert await rig.open_intents() == []
    assert rig.runtime.violations == []


@pytest.mark.parametrize("point", ["discard.done", "discard.recorded", "renew.intended"])
async def test_one_that_is_broken_off_after_the_older_container_went_leaves_no_network(rig: Rig, point: str) -> None:
    await running(rig)
    await rig.put(recycled())
    await crash_during(rig, point)
    if point == "discard.recorded":
        del rig.runtime.images[IMAGE]  # evicted: it has to be loaded once more
        gate = await begun(rig, recycled())
        gate.set()

    await rig.put(recycled(desired=Desired.STOPPED))
    await rig.settle()

    is_there = point == "renew.intended"
    assert (await rig.state(), 51 in rig.runtime.containers) == (WorkloadState.STOPPED, is_there)
    assert {one.kind for one in await rig.claims() if one.kind == "subnet"} == {*(["subnet"] if is_there else [])}
    assert (51 in rig.runtime.networks) is is_there


@pytest.mark.parametrize("verb", ["pull", "stop", "discard", "create", "start"])
async def test_an_answer_that_got_lost_changes_nothing(rig: Rig, verb: str) -> None:
    before = await running(rig)
    rig.runtime.faults.answer_lost = {verb}

    await rig.put(recycled())
    await rig.settle()
    await rig.later(seconds=60)

    row = await rig.row()
    assert (row.state, row.generation, row.ports) == (WorkloadState.RUNNING, 2, before.ports)
    assert rig.runtime.faults.answer_lost == set()


async def measured(rig: Rig, found: Iterable[Overrun]) -> None:
    await rig.store.transaction(lambda tx: disk.put_overruns(tx, found), Topic.CONTRACTS)
    await rig.settle()


async def test_who_was_stopped_for_its_size_stays_so_when_it_cannot_be_recycled(rig: Rig) -> None:
    await running(rig)
    await measured(rig, [Overrun(51, 1, 40 * GB, 10 * GB)])
    assert await rig.state() is WorkloadState.STOPPED

    await rig.put(recycled(image="gone:1"))
    await rig.settle()

    row = await rig.row()
    assert row.problem is not None
    assert (row.state, row.problem.code) == (WorkloadState.STOPPED, "disk_limit_exceeded")
    assert "[image_not_found], so it was not made anew" in row.status_msg
    assert rig.runtime.count("start") == 1
    await rig.put(recycled(3))
    await rig.settle()
    assert ((await rig.row()).state, (await rig.row()).generation) == (WorkloadState.RUNNING, 3)


async def test_a_generation_that_the_machine_does_not_take_is_told_and_changes_nothing(rig: Rig) -> None:
    before, calls = await running(rig), len(rig.runtime.calls)
    banned = NotMade(2, Problem("image_banned", "cannot change contract 51: the owner bans it"))

    await rig.put(contract(refused=banned))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.container_id, row.not_made) == (WorkloadState.RUNNING, before.container_id, banned)
    assert "[image_banned], so it was not made anew" in row.status_msg
    assert verbs(rig, calls) == []
    await rig.put(recycled(3))
    await rig.settle()
    row = await rig.row()
    assert (row.generation, row.not_made, "warning" in row.status_msg) == (3, None, False)
