"""When the machine proves itself, with which GPUs, and what it says until it has."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from kaalia.contracts import canary, fitness
from kaalia.contracts.canary import Room, Target
from kaalia.contracts.contract import ContractKind
from kaalia.model.canary import CanaryRun, CanaryState, Cause, Step, StepResult, Versions
from kaalia.model.health import OpenCondition, Severity
from kaalia.model.selftest import Outcome
from kaalia.model.workload import PortRequest, Protocol
from tests.support.builders import build_gpus, build_report
from tests.support.clock import START

HERE = Versions("0.1.0", "550.54.14", "27.3.1")
EVERY = timedelta(hours=6)
GOOD = StepResult(Step.GPU, Outcome.PASSED, "opened /dev/nvidia0")
BAD = StepResult(Step.GPU, Outcome.FAILED, "/dev/nvidia0 cannot be opened: EPERM")


def run(*steps: StepResult, at: datetime = START, boot: str = "boot-1", versions: Versions = HERE) -> CanaryRun:
    return CanaryRun(Cause.INSTALL, at - timedelta(seconds=2), at, boot, versions, steps or (GOOD,))


PROVEN = CanaryState(last=run(), passed=run())
FAILED = CanaryState(last=run(BAD), passed=run(), failures=1)


def due(state: CanaryState, versions: Versions = HERE, boot: str = "boot-1") -> tuple[Cause, datetime | None] | None:
    need = canary.needed(state, versions, boot)
    return canary.next_at(state, need, EVERY, news=canary.is_news(state, versions, boot))


@pytest.mark.parametrize(
    ("state", "versions", "boot", "cause"),
    [
        (CanaryState(), HERE, "boot-1", Cause.INSTALL),
        (PROVEN, HERE, "boot-2", Cause.BOOT),
        (PROVEN, replace(HERE, agent="0.2.0"), "boot-1", Cause.UPGRADE),
        (PROVEN, replace(HERE, driver="570.86.15"), "boot-1", Cause.UPGRADE),
        (PROVEN, replace(HERE, engine="28.0.0"), "boot-1", Cause.UPGRADE),
        (PROVEN, replace(HERE, driver=None, engine=None), "boot-1", None),
        (PROVEN, HERE, "boot-1", None),
        (FAILED, HERE, "boot-1", None),
        (CanaryState(last=run(BAD), failures=3), HERE, "boot-1", Cause.INSTALL),
    ],
)
def test_proof_is_needed_after_install_boot_and_upgrade(
    state: CanaryState, versions: Versions, boot: str, cause: Cause | None
) -> None:
    assert canary.needed(state, versions, boot) is cause


def test_a_proven_machine_proves_itself_again_after_some_hours() -> None:
    assert due(PROVEN) == (Cause.IDLE, START + EVERY)


def test_what_is_needed_is_run_at_once() -> None:
    assert due(CanaryState()) == (Cause.INSTALL, None)
    assert due(PROVEN, boot="boot-2") == (Cause.BOOT, None)


@pytest.mark.parametrize(("failures", "minutes"), [(1, 1), (2, 5), (3, 15), (4, 60), (9, 60)])
def test_a_failure_is_tried_again_ever_later(failures: int, minutes: int) -> None:
    state = replace(FAILED, failures=failures)

    assert due(state) == (Cause.AGAIN, START + timedelta(minutes=minutes))


def test_a_boot_or_upgrade_after_a_failure_is_tried_at_once() -> None:
    never = CanaryState(last=run(BAD), failures=4)

    assert due(FAILED, boot="boot-2") == (Cause.BOOT, None)
    assert due(never, boot="boot-2") == (Cause.INSTALL, None)
    assert due(never, replace(HERE, driver="570.86.15")) == (Cause.INSTALL, None)


def test_who_gave_way_waits_a_little() -> None:
    state = replace(PROVEN, gave_way_at=START)

    assert due(state, boot="boot-2") == (Cause.BOOT, START + canary.GAVE_WAY_WAIT)


def test_switched_off_it_runs_only_when_asked() -> None:
    assert canary.next_at(CanaryState(), None, None, news=True) is None
    assert canary.next_at(CanaryState(asked_at=START), None, None, news=True) == (Cause.ASKED, None)


RENTED, JOB = ContractKind.ON_DEMAND, ContractKind.DEFAULT_JOB


@pytest.mark.parametrize(
    ("owners", "kinds", "rented", "room"),
    [
        ({}, {}, 0, Room(groups=(3, 1))),
        ({0: 51}, {51: RENTED}, 1, Room(groups=(2, 1))),
        ({3: 51}, {51: RENTED}, 1, Room(groups=(3,))),
        ({0: 51, 1: 51, 2: 52, 3: 53}, {51: RENTED, 52: JOB, 53: JOB}, 1, Room(why_not="all GPUs are rented")),
        ({0: 51, 1: 52, 2: 53, 3: 54}, dict.fromkeys(range(51, 55), JOB), 0, "the owner's own jobs have all GPUs"),
        ({0: 51, 1: 52, 2: 53, 3: 54}, {51: JOB}, 0, Room(why_not="all GPUs are rented")),
    ],
)
def test_it_takes_gpus_that_nobody_has(
    owners: Mapping[int, int], kinds: Mapping[int, ContractKind], rented: int, room: Room | str
) -> None:
    gpus = build_gpus(4)
    gpus = (*gpus[:3], replace(gpus[3], name="NVIDIA GeForce RTX 3090"))
    by_uuid = {gpus[at].uuid: number for at, number in owners.items()}

    found = canary.room(replace(build_report(), gpus=gpus), by_uuid, kinds, rented)

    assert found == (Room(note=room) if isinstance(room, str) else room)


def test_a_machine_without_gpus_is_proven_while_nobody_has_it() -> None:
    bare = build_report(gpus=0)

    assert canary.room(bare, {}, {}, 0) == Room(note="this machine has no GPU")
    assert canary.room(bare, {}, {}, 1).why_not == "the machine is rented"


def test_a_contract_for_each_model_and_the_first_proves_the_rest() -> None:
    target = Target("market.example", "203.0.113.9", 443)

    first, second = canary.specs("an/image:1", "key", Room(groups=(3, 1)), target, quota=True)

    assert (first.gpu_count, second.gpu_count) == (3, 1)
    assert first.args == ("key", "7000", str(canary.QUOTA_BYTES), "market.example", "203.0.113.9", "443")
    assert second.args == ("key", "7000", "0", "-", "-", "0")
    assert first.ports == (PortRequest(7000), PortRequest(7000, Protocol.UDP))
    assert first.disk_bytes == canary.QUOTA_BYTES


def test_unproven_is_unknown_and_says_what_it_waits_for() -> None:
    (found,) = canary.conditions(CanaryState(waits_for="all GPUs are rented"), Cause.INSTALL)

    assert (found.problem.code, found.severity, found.scope) == ("canary_pending", Severity.UNKNOWN, "host")
    assert "all GPUs are rented" in found.problem.evidence
    assert not canary.conditions(PROVEN, None)


@pytest.mark.parametrize("step", list(Step))
def test_each_step_that_fails_is_a_condition_with_what_was_seen(step: Step) -> None:
    state = replace(FAILED, last=run(GOOD, StepResult(step, Outcome.FAILED, "EPERM")), failures=2)

    (found,) = canary.conditions(state, None)

    assert (found.problem.code, found.severity) == (f"canary_{step}_failed", Severity.CRITICAL)
    assert found.problem.evidence == "EPERM"
    assert found.problem.remedy


ONE_BAD = replace(BAD, gpu_uuids=("GPU-a",))


def tried(*steps: StepResult, cause: Cause = Cause.AGAIN, uuids: str = "ab") -> CanaryRun:
    return replace(run(*steps), cause=cause, gpu_uuids=tuple(f"GPU-{one}" for one in uuids))


def after(state: CanaryState, found: CanaryRun, need: Cause | None = None, shown: str = "ab") -> CanaryState:
    return canary.after(state, found, need, [f"GPU-{one}" for one in shown])


def told(state: CanaryState, need: Cause | None = None) -> dict[str, Severity]:
    found = canary.conditions(state, need)
    assert {one.problem.code for one in found} <= {fitness.RETRIED, "canary_pending"}
    return {one.scope: one.severity for one in found}


def test_a_gpu_that_fails_is_told_of_and_the_machine_is_proven_by_the_others() -> None:
    state = after(CanaryState(), tried(ONE_BAD, cause=Cause.INSTALL), Cause.INSTALL)

    assert canary.needed(state, HERE, "boot-1") is None
    assert told(state) == {"GPU-a": Severity.CRITICAL}
    assert due(state) == (Cause.AGAIN, START + timedelta(minutes=1))
    assert fitness.of_host(_faults(state)) is None
    assert fitness.of_gpus(_faults(state))["GPU-a"].is_retried


def test_what_failed_once_of_a_proven_gpu_is_a_warning() -> None:
    once = after(PROVEN, tried(ONE_BAD))
    twice = after(once, tried(ONE_BAD))

    assert told(once) == {"GPU-a": Severity.WARN}
    assert told(twice) == {"GPU-a": Severity.CRITICAL}
    assert not _faults(once)


def test_a_broken_gpu_stays_so_until_a_run_with_it_passes() -> None:
    broken = after(CanaryState(), tried(ONE_BAD, cause=Cause.BOOT), Cause.BOOT)
    without = after(broken, tried(GOOD, uuids="b"))
    again = after(without, tried(GOOD, uuids="a"))

    assert told(without) == {"GPU-a": Severity.CRITICAL}
    assert due(without) == (Cause.AGAIN, START + timedelta(hours=1))
    assert (told(again), due(again)) == ({}, (Cause.IDLE, START + EVERY))


def test_a_run_that_fails_otherwise_says_nothing_of_its_gpus() -> None:
    broken = after(CanaryState(), tried(ONE_BAD, cause=Cause.BOOT), Cause.BOOT)

    state = after(broken, tried(StepResult(Step.LAUNCH, Outcome.FAILED, "no answer"), uuids=""))

    assert state.broken == broken.broken
    assert {one.scope for one in canary.conditions(state, None)} == {"host", "GPU-a"}


def test_a_gpu_that_was_taken_out_is_forgotten_by_the_next_boot() -> None:
    broken = after(CanaryState(), tried(ONE_BAD, cause=Cause.BOOT), Cause.BOOT)

    assert after(broken, tried(GOOD, cause=Cause.IDLE, uuids="b"), shown="b").broken
    assert after(broken, tried(GOOD, cause=Cause.BOOT, uuids="b"), shown="").broken, "nobody knows which are there"
    assert not after(broken, tried(GOOD, cause=Cause.BOOT, uuids="b"), shown="b").broken


def test_an_upgrade_is_proven_anew_while_a_gpu_is_broken() -> None:
    broken = after(CanaryState(), tried(ONE_BAD, cause=Cause.BOOT), Cause.BOOT)

    assert told(broken, Cause.UPGRADE) == {"host": Severity.UNKNOWN, "GPU-a": Severity.CRITICAL}


@pytest.mark.parametrize(
    ("failed", "of_tried", "known", "shown", "are_at_fault"),
    [
        ("a", "ab", "", 8, True),
        ("ab", "ab", "", 8, False),  # the way to all of them
        ("ab", "ab", "ab", 8, True),
        ("ab", "ab", "a", 8, False),
        ("a", "a", "", 8, True),
        ("a", "a", "", 1, False),  # it has no other
        ("", "ab", "", 8, True),  # nobody can tell which
    ],
)
def test_it_is_the_gpus_unless_all_fail_at_once(
    failed: str, of_tried: str, known: str, shown: int, are_at_fault: bool
) -> None:
    step = replace(BAD, gpu_uuids=tuple(failed))

    found = canary.judged(step, of_tried, known, shown)

    assert found == (step if are_at_fault else replace(step, gpu_uuids=()))


def _faults(state: CanaryState) -> tuple[fitness.Fault, ...]:
    return fitness.faults(OpenCondition(one, "canary", START) for one in canary.conditions(state, None))


def test_one_failure_of_a_proven_machine_is_a_warning() -> None:
    assert canary.conditions(FAILED, None)[0].severity is Severity.WARN
    assert canary.conditions(FAILED, Cause.BOOT)[0].severity is Severity.CRITICAL
