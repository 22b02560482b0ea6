"""What breaks a self-test off: a renter, the owner, the daemon's end, a full disk; and that nothing of it is left."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts.canary import Target
from kaalia.contracts.contract import Desired
from kaalia.errors import StoreError
from kaalia.host.own_cgroup import OwnCgroup
from kaalia.model.selftest import Outcome, RunResult, SelfTestRun, StepName
from kaalia.model.workload import WorkloadState
from kaalia.selftest.notebook import Door
from kaalia.selftest.programs import Ears, Programs
from kaalia.store import certificates, claims, machine, selftest
from kaalia.store.changes import Topic
from tests.reconciler.rig import contract
from tests.selftest.bench import NOWHERE
from tests.selftest.trials import HANGS, TALK, Trial, gone, hanging, outcomes

GOES_ON = HANGS.replace(
    "time.sleep(600)", "[(say(progress=n / 1e4, words=str(n)), time.sleep(0.1)) for n in range(6000)]"
)


async def test_a_renter_who_comes_wins_and_the_test_says_so(trial: Trial) -> None:
    trial.add(StepName.MEMORY, HANGS)
    await trial.start()
    await trial.order()
    pid = await hanging(trial)

    await trial.bench.rig.put(contract(51, gpus=2))

    run = await trial.ended()
    assert run.problem is not None
    assert (run.result, run.problem.code) == (RunResult.NOT_RUN, "selftest_gave_way")
    await gone(pid)
    await trial.bench.rig.until(lambda: trial.bench.rig.is_in(WorkloadState.RUNNING, 51))
    await trial.bench.gone()
    assert {one.contract_id for one in await trial.bench.rig.store.read(claims.all_claims)} == {51}


async def test_on_a_machine_without_gpus_a_renter_wins_too(trial: Trial) -> None:
    await trial.bench.put_report(replace(trial.bench.report, gpus=(), driver=None))
    trial.add(StepName.CPU, HANGS, gpus=False)
    await trial.start()
    await trial.order(only=(StepName.CPU,))
    pid = await hanging(trial, StepName.CPU)

    await trial.bench.rig.put(contract(51, gpus=0))

    run = await trial.ended()
    assert run.problem is not None
    assert run.problem.code == "selftest_gave_way"
    assert "C.51" in run.problem.message
    await gone(pid)


async def test_the_owner_breaks_it_off(trial: Trial) -> None:
    trial.add(StepName.MEMORY, HANGS)
    await trial.start()
    number = await trial.order()
    pid = await hanging(trial)

    await trial.cancel(number)

    run = await trial.ended()
    assert run.problem is not None
    assert (run.result, run.problem.code) == (RunResult.NOT_RUN, "selftest_cancelled")
    assert outcomes(run)[StepName.LAUNCH] is Outcome.PASSED, "what was done is kept"
    await gone(pid)
    await trial.bench.gone()


@pytest.mark.parametrize("is_crash", [False, True])
async def test_broken_off_while_jupyter_is_tried_nothing_of_it_is_left(trial: Trial, is_crash: bool) -> None:
    asked = asyncio.Event()

    async def never(door: Door) -> None:
        asked.set()
        await asyncio.sleep(600)

    trial.bench.ask = never  # type: ignore[method-assign]
    await trial.start()
    number = await trial.order(only=(StepName.LAUNCH,))
    await asyncio.wait_for(asked.wait(), 60)
    assert trial.bench.images
    assert await trial.bench.rig.store.read(certificates.all_certificates)

    if is_crash:
        await trial.bench.crash()
        await trial.start()
    else:
        await trial.cancel(number)

    assert (await trial.ended()).result is RunResult.NOT_RUN
    await trial.bench.gone()


async def test_an_end_of_the_daemon_ends_it_and_the_next_one_cleans_up(trial: Trial) -> None:
    trial.add(StepName.MEMORY, HANGS)
    await trial.start()
    await trial.order()
    pid = await hanging(trial)

    await trial.bench.crash()
    await gone(pid)
    await trial.start()

    run = await trial.ended()
    assert run.problem is not None
    assert run.problem.code == "selftest_interrupted"
    await trial.bench.gone()


async def test_a_full_disk_breaks_it_off_and_is_told_when_there_is_room(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.add(StepName.MEMORY, GOES_ON)
    await trial.start()
    await trial.order()
    pid = await hanging(trial)
    end_tried = asyncio.Event()

    async def refuse(_work: object, *topics: Topic) -> None:
        if Topic.OUTBOX in topics:
            end_tried.set()
        raise StoreError("state_disk_full", "cannot write: no space left on device")

    with monkeypatch.context() as full:
        full.setattr(trial.bench.rig.store, "transaction", refuse)
        await asyncio.wait_for(end_tried.wait(), 60)
        await gone(pid)

    run = await trial.ended()
    assert run.problem is not None
    assert (run.result, run.problem.code) == (RunResult.NOT_RUN, "selftest_interrupted")
    await trial.bench.gone()


async def test_a_run_that_no_end_was_written_of_is_interrupted(trial: Trial) -> None:
    number = await trial.order()
    await trial.start()

    run = await trial.ended()

    assert run.problem is not None
    assert (run.run_id, run.problem.code) == (number, "selftest_interrupted")


async def test_what_a_marketplace_wants_outlives_a_restart(trial: Trial) -> None:
    number = await trial.order(task_id="t-1", only=(StepName.SYSTEM,))

    await trial.start()

    run = await trial.ended()
    assert (run.run_id, run.result) == (number, RunResult.PASSED)


async def test_a_machine_that_nobody_read_yet_is_not_tested(trial: Trial) -> None:
    await trial.bench.rig.store.transaction(lambda tx: tx.execute("DELETE FROM machine"))
    await trial.start()
    await trial.order()
    await asyncio.sleep(0)

    async def waited() -> SelfTestRun:
        while (run := await trial.bench.rig.store.read(selftest.newest)) is None or run.result is None:
            trial.bench.clock.advance(10)
            await asyncio.sleep(0.01)
        return run

    run = await asyncio.wait_for(waited(), 60)

    assert run.problem is not None
    assert run.problem.code == "selftest_not_read"


async def test_what_a_marketplace_wants_waits_through_an_end_of_the_daemon(trial: Trial) -> None:
    await trial.bench.rig.put(contract(51))
    await trial.bench.rig.settle()
    await trial.start()
    number = await trial.order(task_id="t-1", only=(StepName.SYSTEM,))
    await asyncio.sleep(0.2)

    await trial.bench.crash()
    assert (await trial.until(lambda _: True)).result is None, "nobody sits before it"
    await trial.start()
    await trial.bench.rig.put(replace(contract(51), desired=Desired.ENDED))

    run = await trial.ended()
    assert (run.run_id, run.result) == (number, RunResult.PASSED)


async def test_what_a_marketplace_wants_is_begun_again_when_its_begin_could_not_be_written(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, report, is_tried = trial.bench.rig.store, trial.bench.report, asyncio.Event()
    write = store.transaction
    await write(lambda tx: tx.execute("DELETE FROM machine"))
    await trial.start()
    number = await trial.order(task_id="t-1", only=(StepName.SYSTEM,))
    await asyncio.sleep(0.2)

    async def refuse(_work: object, *topics: Topic) -> None:
        if Topic.OUTBOX in topics:
            is_tried.set()
        raise StoreError("state_disk_full", "cannot write: no space left on device")

    with monkeypatch.context() as full:
        full.setattr(store, "transaction", refuse)
        await write(lambda tx: machine.put_report(tx, report), Topic.SELFTEST)
        await asyncio.wait_for(is_tried.wait(), 60)

    run = await trial.ended()
    assert (run.run_id, run.result) == (number, RunResult.PASSED)


async def test_a_program_that_is_broken_off_before_it_has_its_cgroup_ends_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.py").write_text(TALK + HANGS)
    begun: list[int] = []

    def slow(pid: int, name: str) -> None:
        begun.append(pid)
        time.sleep(0.5)

    monkeypatch.setattr(OwnCgroup, "around", slow)
    work = Programs(dict(os.environ), tmp_path).run("memory", {}, 60, Ears(lambda *_: None, lambda _: None))
    task = asyncio.ensure_future(work)
    while not begun:
        await asyncio.sleep(0.005)

    task.cancel()

    await asyncio.wait([task], timeout=60)
    assert task.cancelled()
    await gone(begun[0])


async def test_a_gpu_that_is_lost_between_the_begin_and_the_booking_fails_the_launch(trial: Trial) -> None:
    """Nobody came, so that it did not give way: this is what the test is for."""
    report, lost = trial.bench.report, trial.bench.report.gpus[1].uuid

    async def meanwhile() -> Target:
        await trial.bench.put_report(replace(report, gpus=report.gpus[:1]))
        return NOWHERE

    trial.bench.reach = meanwhile
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    async def waited() -> SelfTestRun:
        while (run := await trial.bench.rig.store.read(selftest.newest)) is None or run.result is None:
            trial.bench.clock.advance(1)
            await asyncio.sleep(0.02)
        return run

    run = await asyncio.wait_for(waited(), 60)
    assert (run.result, [one.code for one in run.steps]) == (RunResult.FAILED, ["selftest_gpu_lost"]), run
    assert lost in run.steps[0].words
    await trial.bench.gone()
