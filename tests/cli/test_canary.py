"""`kaalia canary`: how the machine's proof went, step by step, and what a wish for another one becomes."""

import json
from datetime import timedelta
from typing import Any

from kaalia.model.canary import CanaryRun, CanaryState, Cause, Step, StepResult, Versions
from kaalia.model.selftest import Outcome
from kaalia.store import canary
from tests.cli.conftest import Daemon, Run
from tests.support.clock import START

STEPS = (
    StepResult(Step.LAUNCH, Outcome.PASSED, "running after 0.41 s"),
    StepResult(Step.GPU, Outcome.FAILED, "/dev/nvidia1 cannot be opened: EPERM"),
)


def known(daemon: Daemon, state: CanaryState) -> None:
    def work(tx: Any) -> None:
        canary.change(tx, lambda _: state)

    daemon.write(work)


def ended(*steps: StepResult) -> CanaryRun:
    began_at = START - timedelta(minutes=3)
    here = Versions("0.1.0", "550.54.14", "27.3.1")
    return CanaryRun(Cause.BOOT, began_at, began_at + timedelta(seconds=2), "boot-1", here, steps)


def test_each_step_with_what_was_seen(run: Run, rented: Daemon) -> None:
    known(rented, CanaryState(last=ended(*STEPS), failures=1))

    shown = run("canary", "--socket", str(rented.socket))

    assert shown.code == 1
    words = " ".join(shown.out.split())
    assert "Canary: failed 2 min ago, after the boot." in words
    assert "gpu failed: /dev/nvidia1 cannot be opened: EPERM" in words
    assert "kaalia 0.1.0, driver 550.54.14, Docker 27.3.1" in words


def test_one_that_passed_is_well_and_doctor_tells_it(run: Run, rented: Daemon) -> None:
    good = ended(STEPS[0])
    known(rented, CanaryState(last=good, passed=good))

    shown = run("canary", "--json", "--socket", str(rented.socket))
    doctor = run("doctor", "--socket", str(rented.socket))

    assert shown.code == 0
    assert json.loads(shown.out)["state"]["last"]["steps"][0]["outcome"] == "passed"
    assert "Canary: passed 2 min ago, after the boot." in doctor.out


def test_a_wish_that_has_to_wait_says_for_what(run: Run, rented: Daemon) -> None:
    known(rented, CanaryState(waits_for="all GPUs are rented"))

    shown = run("canary", "--now", "--wait", "0.1", "--socket", str(rented.socket))

    assert shown.code == 1
    assert "all GPUs are rented" in shown.err
    assert rented.read(canary.get).asked_at is not None
