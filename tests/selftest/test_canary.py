"""The machine proves itself by a container of its own, gives way to everybody, and leaves nothing."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts.local import LOCAL_FIRST, is_local
from kaalia.errors import Problem, WorkloadError
from kaalia.model.canary import CanaryState, Cause, Step
from kaalia.model.health import Condition, Severity
from kaalia.model.reach import Outcome as Seen
from kaalia.model.selftest import Outcome
from kaalia.model.workload import Protocol, WorkloadState
from kaalia.store import conditions, journal, outbox, traffic
from kaalia.sync import push
from tests.reconciler.rig import contract
from tests.selftest.bench import Bench


def outcomes(state: CanaryState) -> dict[Step, Outcome]:
    assert state.last is not None
    return {one.step: one.outcome for one in state.last.steps}


async def passed(bench: Bench, runs: int = 1) -> CanaryState:
    return await bench.until(lambda state: state.passed is not None and state.running_since is None)


async def test_a_new_machine_proves_itself_and_leaves_nothing(bench: Bench) -> None:
    await bench.start()

    state = await passed(bench)

    assert state.last is not None
    assert state.last.cause is Cause.INSTALL
    assert outcomes(state) == dict.fromkeys(Step, Outcome.PASSED)
    await bench.gone()
    await bench.until_told()
    held = await bench.rig.claims(LOCAL_FIRST)
    assert not held


async def test_nobody_else_hears_of_it_and_nobody_pays(bench: Bench) -> None:
    await bench.start()
    await passed(bench)
    await bench.gone()

    messages = await bench.rig.store.read(lambda tx: outbox.pending(tx, 1000))
    full = await bench.rig.store.read(lambda tx: push.collect(tx, "s", bench.clock.now(), is_full_due=True))

    assert not [one for one in messages if str(LOCAL_FIRST) in one.body]
    assert full.post.workloads == ()
    assert not await bench.rig.store.read(journal.open_starts)
    assert not await bench.rig.store.read(traffic.all_tallies)


async def test_until_it_passes_the_machine_says_so(bench: Bench) -> None:
    await bench.put_report(replace(bench.report, engine=None))
    await bench.start()

    told = await bench.until_told("canary_pending")

    assert told["canary_pending"].severity is Severity.UNKNOWN
    assert "Docker" in (await bench.until(lambda state: bool(state.waits_for))).waits_for
    engine = await bench.runtime.engine()
    await bench.put_report(replace(bench.report, engine=engine))
    await passed(bench)
    await bench.until_told()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step.GPU, ("gpu nvidia1 195 1 0", "gpu nvidia1 195 1 1")),
        (Step.NETWORK, ("{address}", "10.9.9.9")),
        (Step.QUOTA, ("wrote 33000000 122", "wrote 50331648 0")),
    ],
)
async def test_what_fails_is_told_and_clears_when_it_passes(bench: Bench, step: Step, said: tuple[str, str]) -> None:
    good = bench.runtime.said
    bench.runtime.said = good.replace(*said)
    await bench.start()

    told = await bench.until_told(f"canary_{step}_failed")

    assert told[f"canary_{step}_failed"].severity is Severity.CRITICAL
    await bench.gone()
    bench.runtime.said = good
    await bench.order()
    await passed(bench)
    await bench.until_told()


async def test_a_port_that_nobody_answers_fails(bench: Bench) -> None:
    bench.runtime.deaf = {Protocol.UDP}
    await bench.start()

    told = await bench.until_told("canary_ports_failed")

    assert "/tcp: answered" in told["canary_ports_failed"].problem.evidence
    assert "/udp: " in told["canary_ports_failed"].problem.evidence


async def test_a_container_that_does_not_come_up_fails_with_the_engines_words(bench: Bench) -> None:
    bench.runtime.faults.refuse_start = WorkloadError("gpu_missing", "cannot start: nvidia-container-cli: no device")
    await bench.start()

    told = await bench.until_told("canary_launch_failed")

    assert "nvidia-container-cli" in told["canary_launch_failed"].problem.evidence
    await bench.gone()


async def test_without_its_program_the_machine_says_what_to_do(bench: Bench) -> None:
    bench.image_fails_with = WorkloadError("canary_program_missing", "cannot test", remedy="run scripts/build-kit")
    await bench.start()

    told = await bench.until_told("canary_launch_failed")

    assert "scripts/build-kit" in told["canary_launch_failed"].problem.evidence


async def test_a_renter_who_comes_wins_and_it_is_tried_again(bench: Bench) -> None:
    await bench.start()
    first = await passed(bench)
    await bench.gone()
    bench.runtime.said = bench.runtime.said.replace("done\n", "")  # it would go on for long
    await bench.order()
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, LOCAL_FIRST + 1))

    await bench.rig.put(contract(51, gpus=2))

    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, 51))
    state = await bench.until(lambda one: one.running_since is None and bool(one.waits_for))
    assert (state.last, state.failures) == (first.last, 0)
    await bench.gone()
    assert await bench.rig.state(51) is WorkloadState.RUNNING
    bench.clock.advance(60)
    await bench.order()
    assert (await bench.until(lambda one: one.waits_for == "all GPUs are rented")).last == first.last


async def test_beside_a_tenant_it_takes_the_gpus_that_are_left(bench: Bench) -> None:
    await bench.rig.put(contract(51, gpus=1))
    bench.runtime.said = bench.runtime.said.replace("gpu nvidia0 195 0 try\ngpu nvidia0 195 0 0\n", "")
    await bench.rig.settle()

    await bench.start()

    state = await passed(bench)
    assert outcomes(state)[Step.GPU] is Outcome.PASSED
    assert await bench.rig.state(51) is WorkloadState.RUNNING


async def test_what_a_crash_leaves_is_removed_before_another_begins(bench: Bench) -> None:
    good = bench.runtime.said
    bench.runtime.said = ""
    await bench.start()
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, LOCAL_FIRST))

    await bench.crash()
    assert LOCAL_FIRST in bench.runtime.containers
    bench.runtime.said = good
    await bench.start()

    await bench.gone()
    assert bench.runtime.count("create") == 1, "what broke off is not tried again at once"
    await bench.crash()
    bench.clock.advance(30)
    await bench.start()
    await passed(bench)
    assert bench.runtime.count("create") == 2


async def test_a_container_of_its_own_that_no_book_knows_is_removed_at_once(bench: Bench) -> None:
    bench.every = None
    await bench.start()
    await bench.order()
    await bench.until(lambda state: state.last is not None)
    bench.runtime.said = ""
    await bench.order()
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, LOCAL_FIRST + 1))
    await bench.crash()
    await bench.rig.store.transaction(lambda tx: tx.execute("DELETE FROM contracts"))

    await bench.start()

    await bench.gone()


async def test_an_idle_machine_proves_itself_again_after_some_hours(bench: Bench) -> None:
    await bench.start()
    first = await passed(bench)
    await bench.crash()

    bench.clock.advance(timedelta(hours=6).total_seconds())
    await bench.rig.speak()
    await bench.start()

    state = await bench.until(lambda one: one.last != first.last)
    assert state.last is not None
    assert state.last.cause is Cause.IDLE


async def test_after_a_restart_of_the_daemon_alone_it_is_not_run(bench: Bench) -> None:
    await bench.start()
    await passed(bench)
    await bench.gone()
    await bench.crash()
    begun = bench.runtime.count("create")

    await bench.start()
    await asyncio.sleep(0.3)

    assert bench.runtime.count("create") == begun
    assert not await bench.told()


async def test_a_boot_makes_it_prove_itself_anew(bench: Bench) -> None:
    await bench.start()
    first = await passed(bench)
    await bench.gone()
    await bench.crash()

    bench.boot_id = "boot-2"
    await bench.put_report(replace(bench.report, system=replace(bench.report.system, boot_id="boot-2")))
    await bench.start()

    state = await bench.until(lambda one: one.passed is not None and one.passed != first.passed)
    assert state.passed is not None
    assert state.passed.cause is Cause.BOOT


async def test_switched_off_it_tells_nothing_and_runs_when_asked(bench: Bench) -> None:
    bench.every = None
    await bench.start()
    await asyncio.sleep(0.2)
    assert (await bench.state()).last is None
    assert not await bench.told()

    await bench.order()

    state = await bench.until(lambda one: one.last is not None)
    assert state.last is not None
    assert state.last.cause is Cause.ASKED


async def test_an_engine_that_dies_under_it_is_no_verdict(bench: Bench) -> None:
    bench.runtime.said = ""
    await bench.start()
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, LOCAL_FIRST))

    bench.runtime.go_down()

    state = await bench.until(lambda one: one.running_since is None)
    assert (state.last, state.failures) == (None, 0)
    bench.runtime.come_up()
    bench.rig.service.look_again()
    await bench.gone()
    assert not any(is_local(number) for number in bench.runtime.networks)


async def test_nothing_is_rented_anew_before_it_has_passed(bench: Bench) -> None:
    bench.runtime.said = bench.runtime.said.replace("done\n", "")
    await bench.start()
    await bench.until_told("canary_pending")
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, LOCAL_FIRST))

    await bench.rig.put(contract(51, gpus=2))

    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.WAITING, 51))
    assert "canary_pending" in (await bench.rig.row(51)).status_msg
    bench.runtime.said += "done\n"
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, 51))


async def test_a_gpu_that_fails_is_rented_to_nobody_and_the_others_are(bench: Bench) -> None:
    first, second = (gpu.uuid for gpu in bench.report.gpus)
    bench.minors = {first: 0, second: 1}
    well, shut = bench.runtime.said, "gpu nvidia1 195 1 1"
    bench.runtime.said = well.replace("gpu nvidia1 195 1 0", shut)
    await bench.start()

    told = await bench.until_told("canary_gpu_failed")

    assert (told["canary_gpu_failed"].scope, told["canary_gpu_failed"].severity) == (second, Severity.CRITICAL)
    await bench.gone()
    await bench.rig.put(contract(51, gpus=1))
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, 51))
    assert (await bench.rig.row(51)).gpu_uuids == (first,)

    bench.runtime.said = well.replace("gpu nvidia0 195 0 try\ngpu nvidia0 195 0 0\n", "")
    await bench.order()
    await bench.until_told()
    assert (await bench.state()).last == (await passed(bench)).passed
    await bench.rig.put(contract(51, gpus=1), contract(52, gpus=1))
    await bench.rig.until(lambda: bench.rig.is_in(WorkloadState.RUNNING, 52))


async def test_a_gpu_that_is_known_to_be_broken_is_left_out_of_it(bench: Bench) -> None:
    broken = bench.report.gpus[0].uuid
    fault = Condition(Problem("gpu_lost", "cannot use it"), Severity.CRITICAL, "it is back", scope=broken)
    now = bench.clock.now()
    await bench.rig.store.transaction(lambda tx: conditions.replace(tx, "gpu", [fault], now))
    bench.runtime.said = bench.runtime.said.replace("gpu nvidia0 195 0 try\ngpu nvidia0 195 0 0\n", "")

    await bench.start()

    state = await passed(bench)
    assert outcomes(state)[Step.GPU] is Outcome.PASSED


@pytest.mark.parametrize(("outside", "outcome"), [(Seen.CONNECTED, Outcome.PASSED), (Seen.SILENT, Outcome.FAILED)])
async def test_a_port_that_the_outside_reached_must_lead_to_the_container(
    bench: Bench, outside: Seen, outcome: Outcome
) -> None:
    bench.outside = outside
    await bench.start()

    state = await bench.until(lambda one: one.last is not None)

    assert outcomes(state)[Step.PORTS] is outcome
