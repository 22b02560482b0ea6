"""A tag that the machine chooses: by its driver, anew at each recycle, and refused when none fits."""

from dataclasses import replace
from typing import Any

from kaalia.contracts.contract import Contract
from kaalia.contracts.policy import Policy
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.launch import Settings
from kaalia.runtime.base import ImageFacts
from tests.reconciler.rig import Rig, contract


def automatic(**changes: Any) -> Contract:
    made = contract(**changes)
    return replace(made, spec=replace(made.spec, image="team/app:@vastai-automatic-tag"))


async def offer(rig: Rig, *tags: str) -> None:
    rig.tags = tags
    for tag in tags:
        rig.runtime.add_image(f"team/app:{tag}", ImageFacts(f"sha256:{tag}"), is_present=False)


async def refusal(rig: Rig) -> str:
    row = await rig.row()
    assert (row.state, rig.runtime.containers) == (WorkloadState.FAILED, {})
    assert row.problem is not None
    assert row.problem.remedy
    return row.problem.code


async def test_the_driver_s_cuda_chooses_and_a_recycle_chooses_anew(rig: Rig) -> None:
    await offer(rig, "cuda-12.1", "cuda-12.4.1", "cuda-12.8")
    await rig.put(automatic())
    await rig.settle()

    assert rig.runtime.placements[51].contract.spec.image == "team/app:cuda-12.4.1"
    assert "team/app:cuda-12.4.1" in (await rig.row()).status_msg

    await offer(rig, "cuda-12.1", "cuda-12.4.1", "cuda-12.4.2")
    await rig.put(automatic(generation=2))
    await rig.settle()
    row = await rig.row()
    assert (row.state, row.generation) == (WorkloadState.RUNNING, 2)
    assert rig.asked_for_tags == 2, "once a generation: between two answers the older container goes"
    assert rig.runtime.placements[51].contract.spec.image == "team/app:cuda-12.4.2"


async def test_without_a_tag_that_fits_nothing_is_made_and_what_runs_goes_on(rig: Rig) -> None:
    await offer(rig, "cuda-12.8", "latest")
    await rig.put(automatic())
    await rig.settle()
    assert await refusal(rig) == "no_tag_fits"

    await offer(rig, "cuda-12.4")
    await rig.put(automatic(generation=2))
    await rig.settle()
    before = await rig.row()
    assert before.state is WorkloadState.RUNNING
    await offer(rig, "cuda-12.8")
    await rig.put(automatic(generation=3))
    await rig.settle()

    row = await rig.row()
    assert (row.state, row.container_id) == (WorkloadState.RUNNING, before.container_id)
    assert "[no_tag_fits], so it was not made anew" in row.status_msg


async def test_an_owner_s_ban_holds_for_the_tag_that_was_chosen(rig: Rig) -> None:
    rig.settings = Settings(policy=Policy(banned_images=("team/app:cuda-12.4*",)))
    rig.boot()
    await offer(rig, "cuda-12.1", "cuda-12.4")
    await rig.put(automatic())
    await rig.settle()

    assert await refusal(rig) == "image_banned"
