"""A test of the whole machine: its steps, what breaks it off, and that nothing of it is left."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts import requirements
from kaalia.contracts.contract import Desired
from kaalia.contracts.local import LOCAL_FIRST
from kaalia.errors import HostError, StoreError, WorkloadError
from kaalia.model.machine import Memory
from kaalia.model.selftest import Figure, Outcome, RunResult, Sample, SelfTestRun, StepName
from kaalia.model.workload import Protocol, WorkloadState
from kaalia.store import claims, outbox, selftest
from kaalia.store.changes import Topic
from kaalia.units import GIB
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind
from kaalia.wire.selftest import SelfTestNotice, fault
from tests.reconciler.rig import contract
from tests.selftest.bench import Bench
from tests.selftest.trials import Trial
from tests.support.free_range import free_range

HANGS = """
import pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
say(progress=0.5, words="half of it")
time.sleep(600)
"""


@pytest.fixture
def trial(bench: Bench, tmp_path: Path) -> Trial:
    bench.every = None
    return Trial(bench, tmp_path)


def outcomes(run: SelfTestRun) -> dict[StepName, Outcome]:
    return {one.step: one.outcome for one in run.steps}


async def notices(trial: Trial) -> list[str]:
    """What the marketplace is told."""
    rows = await trial.bench.rig.store.read(lambda tx: outbox.pending(tx, 1000))
    return [row.body for row in rows if row.kind == MessageKind.SELFTEST]


async def hanging(trial: Trial, step: StepName = StepName.MEMORY) -> int:
    """The number of the process that hangs in this step."""
    for _ in range(6000):
        if (pid := trial.pid(step)) is not None:
            return pid
        await asyncio.sleep(0.005)
    raise AssertionError("it did not begin")


async def gone(pid: int) -> None:
    for _ in range(2000):
        if not Path(f"/proc/{pid}").exists():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"process {pid} is still there")


async def test_a_machine_that_is_well_passes_and_nothing_is_left(trial: Trial) -> None:
    await trial.start()
    await trial.order()

    run = await trial.ended()

    assert run.result is RunResult.PASSED, run
    assert outcomes(run) == dict.fromkeys(
        (StepName.SYSTEM, StepName.LAUNCH, StepName.PORTS, StepName.NETWORK), Outcome.PASSED
    )
    await trial.bench.gone()
    assert trial.bench.logins == 1
    assert not await trial.bench.rig.claims(LOCAL_FIRST)
    assert await trial.bench.rig.store.read(selftest.get_progress) is None


async def test_a_whole_test_is_held_against_the_requirements_and_told(trial: Trial) -> None:
    await trial.start()
    await trial.order()

    run = await trial.ended()

    assert {one.requirement for one in run.verdicts} == {one.id for one in requirements.book()}
    told = [document.decode(SelfTestNotice, body) for body in await notices(trial)]
    assert [(one.run.run_id, one.run.result) for one in told] == [(run.run_id, RunResult.PASSED)]
    assert fault(told[0]) is None


async def test_an_unmet_requirement_fails_the_test(trial: Trial) -> None:
    small = replace(trial.bench.report, memory=Memory(8 * GIB, 6 * GIB))
    await trial.bench.put_report(small)
    await trial.start()
    await trial.order()

    run = await trial.ended()

    assert run.result is RunResult.FAILED
    unmet = [one for one in run.verdicts if one.outcome is Outcome.FAILED]
    assert all(one.source and one.remedy for one in unmet)
    assert any("8192" in one.actual for one in unmet), unmet


async def test_a_part_of_the_steps_is_held_against_nothing_and_told_to_nobody(trial: Trial) -> None:
    await trial.start()
    await trial.order(only=(StepName.SYSTEM,))

    run = await trial.ended()

    assert (run.result, run.verdicts) == (RunResult.PASSED, ())
    assert not await notices(trial)


async def test_what_a_marketplace_asks_for_waits_until_nobody_rents(trial: Trial) -> None:
    await trial.bench.rig.put(contract(51))
    await trial.bench.rig.settle()
    await trial.start()
    await trial.order(task_id="t-1", only=(StepName.SYSTEM,))
    await asyncio.sleep(0.2)
    assert (await trial.until(lambda _: True)).result is None

    await trial.bench.rig.put(replace(contract(51), desired=Desired.ENDED))

    assert (await trial.ended()).result is RunResult.PASSED


async def test_a_work_program_gets_the_booked_gpus_and_is_heard(trial: Trial) -> None:
    trial.add(
        StepName.MEMORY,
        """
for uuid in told["gpus"]:
    say(figure={"name": "memory_gbps", "value": 900.5, "unit": "GB/s", "gpu_uuid": uuid, "spread": 0.01})
    say(sample={"at_s": 1.0, "gpu_uuid": uuid, "temperature_c": 61})
say(end="passed", code="", words=f"filled {len(told['gpus'])} GPUs, quick {told['quick']}", remedy="")
""",
    )
    await trial.start()
    number = await trial.order(is_quick=True)

    run = await trial.ended()

    step = run.steps[-1]
    uuids = [gpu.uuid for gpu in trial.bench.report.gpus]
    assert (step.outcome, step.words) == (Outcome.PASSED, "filled 2 GPUs, quick True")
    assert step.figures == tuple(Figure("memory_gbps", 900.5, "GB/s", uuid, 0.01) for uuid in uuids)
    samples = await trial.bench.rig.store.read(lambda tx: selftest.samples(tx, number))
    assert samples == tuple(Sample(1.0, uuid, temperature_c=61.0) for uuid in uuids)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            'say(end="failed", code="wrong_bits", words="cannot trust GPU 0", remedy="replace it")',
            "wrong_bits",
        ),
        ("print('no json', flush=True)", "work_garbled"),
        ("sys.exit(3)", "work_died"),
        ("os.kill(os.getpid(), 9)", "work_died"),
    ],
)
async def test_a_step_that_fails_fails_the_test_and_the_others_are_run(trial: Trial, text: str, code: str) -> None:
    trial.add(StepName.MEMORY, text)
    trial.add(StepName.CPU, 'say(end="passed", code="", words="well", remedy="")', gpus=False)
    await trial.start()
    await trial.order()

    run = await trial.ended()

    found = {one.step: one for one in run.steps}
    assert (run.result, found[StepName.MEMORY].code) == (RunResult.FAILED, code)
    assert found[StepName.CPU].outcome is Outcome.PASSED
    await trial.bench.gone()


async def test_a_program_that_hangs_is_killed_at_its_bound(trial: Trial) -> None:
    trial.add(StepName.MEMORY, HANGS, limit_s=6.0)
    await trial.start()
    await trial.order(only=(StepName.MEMORY,))

    run = await trial.ended()

    assert (run.result, run.steps[0].code) == (RunResult.FAILED, "work_late")
    await gone(await hanging(trial))


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


async def test_a_machine_whose_gpus_are_all_gone_comes_to_a_verdict(trial: Trial) -> None:
    """Contracts without GPUs run one at a time, so that nobody logs in to a second one."""
    await trial.bench.put_report(replace(trial.bench.report, gpus=(), driver=None))
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert run.result is RunResult.PASSED, run
    assert "ssh was not tried" in run.steps[0].words
    assert trial.bench.logins == 0


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
    trial.add(StepName.MEMORY, HANGS)
    await trial.start()
    await trial.order()
    pid = await hanging(trial)
    await trial.until(lambda run: len(run.steps) > 0)

    async def refuse(*_: object) -> None:
        raise StoreError("state_disk_full", "cannot write: no space left on device")

    with monkeypatch.context() as full:
        full.setattr(trial.bench.rig.store, "transaction", refuse)
        trial.bench.rig.changes.ring(Topic.SELFTEST)
        await gone(pid)

    run = await trial.ended()
    assert run.problem is not None
    assert (run.result, run.problem.code) == (RunResult.NOT_RUN, "selftest_interrupted")
    await trial.bench.gone()


async def test_without_a_port_the_launch_fails_and_says_why(trial: Trial) -> None:
    network = replace(trial.bench.report.network, port_range=free_range(1))
    await trial.bench.put_report(replace(trial.bench.report, network=network))
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert run.result is RunResult.FAILED, run
    assert run.steps[0].code == "ports_exhausted"
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


async def test_a_rented_machine_is_left_alone(trial: Trial) -> None:
    await trial.bench.rig.put(contract(51))
    await trial.bench.rig.settle()
    await trial.start()
    await trial.order()

    run = await trial.ended()

    assert run.problem is not None
    assert (run.result, run.problem.code, run.steps) == (RunResult.NOT_RUN, "selftest_rented", ())
    assert "C.51" in run.problem.message
    assert await trial.bench.rig.state(51) is WorkloadState.RUNNING


async def test_what_needs_no_gpu_books_none(trial: Trial) -> None:
    trial.add(StepName.CPU, 'say(end="passed", code="", words="well", remedy="")', gpus=False)
    await trial.start()
    await trial.order(only=(StepName.CPU,))

    run = await trial.ended()

    assert (run.result, list(outcomes(run))) == (RunResult.PASSED, [StepName.CPU])
    assert trial.bench.runtime.count("create") == 0


async def test_a_container_that_does_not_come_up_fails_the_launch(trial: Trial) -> None:
    trial.add(StepName.MEMORY, 'say(end="passed", code="", words="well", remedy="")')
    trial.bench.runtime.faults.refuse_start = WorkloadError("gpu_missing", "cannot start: no device", evidence="nvidia")
    await trial.start()
    await trial.order()

    run = await trial.ended()

    found = {one.step: one for one in run.steps}
    assert run.result is RunResult.FAILED
    assert (found[StepName.LAUNCH].code, "nvidia" in found[StepName.LAUNCH].words) == ("gpu_missing", True)
    assert found[StepName.MEMORY].outcome is Outcome.SKIPPED
    await trial.bench.gone()


@pytest.mark.parametrize(
    ("step", "code", "said"),
    [
        (StepName.LAUNCH, "canary_gpu_failed", ("gpu nvidia1 195 1 0", "gpu nvidia1 195 1 1")),
        (StepName.LAUNCH, "canary_quota_failed", ("wrote 33000000 122", "wrote 50331648 0")),
        (StepName.NETWORK, "canary_network_failed", ("{address}", "10.9.9.9")),
    ],
)
async def test_each_deficiency_fails_its_step(trial: Trial, step: StepName, code: str, said: tuple[str, str]) -> None:
    trial.bench.runtime.said = trial.bench.runtime.said.replace(*said)
    await trial.start()
    await trial.order()

    run = await trial.ended()

    assert {one.step: one.code for one in run.steps if one.outcome is Outcome.FAILED} == {step: code}


async def test_nobody_logs_in_and_the_launch_fails(trial: Trial) -> None:
    trial.bench.login_fails_with = HostError("selftest_login_failed", "cannot log in by ssh", evidence="refused")
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert (run.steps[0].code, "refused" in run.steps[0].words) == ("selftest_login_failed", True)
    await trial.bench.gone()


async def test_a_port_that_nobody_answers_fails_the_ports(trial: Trial) -> None:
    trial.bench.runtime.deaf = {Protocol.UDP}
    await trial.start()
    await trial.order()

    run = await trial.ended()

    assert {one.step: one.code for one in run.steps if one.outcome is Outcome.FAILED} == {
        StepName.PORTS: "canary_ports_failed"
    }


async def test_without_a_toolkit_the_system_fails(trial: Trial) -> None:
    report = trial.bench.report
    assert report.engine is not None
    await trial.bench.put_report(replace(report, engine=replace(report.engine, gpu_mode="none")))
    await trial.start()
    await trial.order(only=(StepName.SYSTEM,))

    run = await trial.ended()

    assert run.steps[0].code == "selftest_no_toolkit"


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
