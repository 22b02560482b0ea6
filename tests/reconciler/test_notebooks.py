"""How Jupyter is doing is told to its renter while the instance runs, and nothing else follows from it."""

from dataclasses import replace

import pytest

from kaalia.contracts.contract import Contract
from kaalia.model.workload import LaunchMode, WorkloadState
from kaalia.reconciler.notebooks import LATER_S, SOON_S
from tests.reconciler.rig import Rig, contract

PLAIN = "success, running docker.io/library/busybox:1.36/jupyter"


def notebook(contract_id: int = 51) -> Contract:
    plain = contract(contract_id)
    return replace(plain, spec=replace(plain.spec, launch_mode=LaunchMode.JUPYTER))


async def noted(rig: Rig, note: str, wait_s: float) -> None:
    """The kit writes it, and the next look comes."""
    rig.runtime.notebooks[51] = note
    await rig.later(seconds=wait_s)
    await rig.service.notebooks.look()
    await rig.settle()


async def test_progress_failure_and_start_are_told(rig: Rig) -> None:
    await rig.put(notebook())
    await rig.settle()
    said = [(await rig.row()).status_msg]
    for note, wait_s in (
        ("installing jupyterlab: 3 packages found", SOON_S),
        ("failed jupyter_no_network the index is silent", SOON_S),
        ("started lab", LATER_S),
    ):
        await noted(rig, note, wait_s)
        said.append((await rig.row()).status_msg)

    assert said[0] == said[3] == PLAIN
    assert said[1] == f"{PLAIN}; warning: Jupyter is not there yet: installing jupyterlab: 3 packages found"
    assert "[jupyter_no_network]" in said[2]
    assert (await rig.row()).state is WorkloadState.RUNNING
    assert rig.runtime.count("stop") == rig.runtime.count("remove") == 0


async def test_only_jupyters_that_run_are_looked_at_and_those_that_are_well_not_for_long(rig: Rig) -> None:
    await rig.put(notebook(51), contract(52))
    await rig.settle()
    await noted(rig, "started lab", SOON_S)
    for _ in range(9):
        await noted(rig, "started lab", LATER_S)
    looks = rig.runtime.calls.count(("notebook", 51))

    assert looks <= 6
    assert ("notebook", 52) not in rig.runtime.calls


async def test_an_engine_that_does_not_answer_leaves_the_words_as_they_are(rig: Rig) -> None:
    await rig.put(notebook())
    await rig.settle()
    await noted(rig, "failed jupyter_no_pip x", SOON_S)
    del rig.runtime.notebooks[51]
    await rig.later(seconds=LATER_S)
    await rig.service.notebooks.look()
    await rig.settle()

    assert "[jupyter_no_pip]" in (await rig.row()).status_msg


async def test_one_note_that_nobody_foresaw_keeps_no_other_from_being_read(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.put(notebook(51), notebook(52))
    await rig.settle()
    first, second = rig.service.notebooks._watched
    rig.runtime.notebooks[second] = "failed jupyter_no_pip x"
    rig.runtime.faults.notebook_bugs = {first: ValueError("a tar that is none")}
    await rig.later(seconds=SOON_S)
    await rig.service.notebooks.look()
    looks = rig.runtime.calls.count(("notebook", first))
    await rig.service.notebooks.look()

    assert "[jupyter_no_pip]" in rig.service.notebooks.words(second)
    assert "a tar that is none" in caplog.text
    assert rig.runtime.calls.count(("notebook", first)) == looks, "its time is later"
