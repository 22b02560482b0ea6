"""A test of the whole machine: its steps, what each deficiency fails, and that nothing of it is left."""

import asyncio
from dataclasses import replace

import pytest

from kaalia.contracts import requirements
from kaalia.contracts import selftest as rules
from kaalia.contracts.contract import Desired
from kaalia.contracts.local import LOCAL_FIRST
from kaalia.errors import HostError, WorkloadError
from kaalia.model.machine import Memory
from kaalia.model.selftest import BURN_MAX_S, Figure, Outcome, RunResult, Sample, SelfTestOrder, StepName
from kaalia.model.workload import LaunchMode, Protocol, WorkloadState
from kaalia.selftest.registry import STEPS
from kaalia.store import outbox, selftest
from kaalia.units import GIB
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind
from kaalia.wire.selftest import SelfTestNotice, fault
from tests.reconciler.rig import contract
from tests.selftest.trials import HANGS, Trial, gone, hanging, outcomes
from tests.support.clock import START
from tests.support.free_range import free_range


async def notices(trial: Trial) -> list[str]:
    """What the marketplace is told."""
    rows = await trial.bench.rig.store.read(lambda tx: outbox.pending(tx, 1000))
    return [row.body for row in rows if row.kind == MessageKind.SELFTEST]


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
    assert len(trial.bench.doors) == 1
    assert not await trial.bench.rig.claims(LOCAL_FIRST)
    assert await trial.bench.rig.store.read(selftest.get_progress) is None


async def test_a_burn_of_a_day_is_booked_for_a_day(trial: Trial) -> None:
    trial.add(StepName.BURN, 'say(end="passed", code="", words=str(told["minutes"]), remedy="")')
    await trial.start()
    await trial.order(only=(StepName.BURN,), burn_s=BURN_MAX_S)

    run = await trial.ended()

    assert (run.result, run.steps[0].words) == (RunResult.PASSED, "1440.0"), run


def test_every_step_may_run_into_its_bound_before_the_booking_ends() -> None:
    order = SelfTestOrder(START, burn_s=60.0)

    assert sum(step.limit(order) for step in STEPS.values()) < rules.lasts(order).total_seconds()


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


async def test_a_machine_whose_gpus_are_all_gone_comes_to_a_verdict(trial: Trial) -> None:
    """Contracts without GPUs run one at a time, so that nobody logs in to a second one."""
    await trial.bench.put_report(replace(trial.bench.report, gpus=(), driver=None))
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert run.result is RunResult.PASSED, run
    assert "ssh and Jupyter were not tried" in run.steps[0].words
    assert (trial.bench.logins, trial.bench.doors) == (0, [])


async def test_without_a_port_the_launch_fails_and_says_why(trial: Trial) -> None:
    network = replace(trial.bench.report.network, port_range=free_range(1))
    await trial.bench.put_report(replace(trial.bench.report, network=network))
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert run.result is RunResult.FAILED, run
    assert run.steps[0].code == "ports_exhausted"
    await trial.bench.gone()


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


async def test_jupyter_does_not_answer_and_the_launch_fails_with_its_last_words(trial: Trial) -> None:
    trial.bench.jupyter_fails_with = HostError("selftest_jupyter_failed", "cannot use Jupyter", evidence="refused")
    trial.bench.runtime.said += "Jupyter ended with code 1\n"
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    step = run.steps[0]
    assert step.code == "selftest_jupyter_failed"
    assert "refused" in step.words
    assert "ended with code 1" in step.words
    assert trial.bench.doors[0].token not in str(run)
    await trial.bench.gone()


async def test_a_token_that_a_container_wrote_down_is_not_told(trial: Trial) -> None:
    trial.bench.jupyter_fails_with = HostError("selftest_jupyter_failed", "cannot use Jupyter")
    trial.bench.runtime.says_its_variables = True
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    token = trial.bench.doors[0].token
    assert "JUPYTER_TOKEN=..." in run.steps[0].words
    assert token not in str(run)
    assert token not in repr(trial.bench.doors[0])


async def test_without_a_jupyter_on_this_machine_none_is_tried(trial: Trial) -> None:
    trial.bench.why_no_jupyter = "this machine has none"
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert run.result is RunResult.PASSED, run
    assert run.steps[0].words.endswith("ssh logs in; Jupyter was not tried: this machine has none")
    assert (trial.bench.doors, trial.bench.images) == ([], set())


async def test_a_quick_test_leaves_jupyter_out(trial: Trial) -> None:
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,), is_quick=True)

    run = await trial.ended()

    assert run.result is RunResult.PASSED, run
    assert "Jupyter was not tried: a quick test leaves it out" in run.steps[0].words
    assert (trial.bench.logins, trial.bench.doors, trial.bench.images) == (1, [], set())


async def test_a_port_that_is_open_without_its_container_fails_the_launch(trial: Trial) -> None:
    trial.bench.runtime.stays_open = {LaunchMode.JUPYTER}
    await trial.start()
    await trial.order(only=(StepName.LAUNCH,))

    run = await trial.ended()

    assert run.steps[0].code == "selftest_jupyter_failed"
    assert "when it is gone" in run.steps[0].words


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
