"""When a test of the machine may begin, which steps it has, and what its result is."""

from dataclasses import replace
from datetime import timedelta

import pytest

from kaalia.contracts import selftest as rules
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.selftest import Sight
from kaalia.errors import ContractError
from kaalia.model.selftest import (
    BURN_MAX_S,
    Outcome,
    RequirementVerdict,
    RunResult,
    SelfTestOrder,
    StepName,
    StepResult,
)
from tests.support.builders import build_gpus, build_report
from tests.support.clock import START

FREE = Sight(build_report(), {}, {}, ())
GPU = build_gpus(1)[0].uuid
ORDER = SelfTestOrder(START)
JOB, RENTED = ContractKind.DEFAULT_JOB, ContractKind.ON_DEMAND


@pytest.mark.parametrize(
    ("seen", "code", "passes"),
    [
        (replace(FREE, report=None), "selftest_not_read", True),
        (replace(FREE, rented=(51, 60)), "selftest_rented", False),
        (replace(FREE, owners={GPU: 51}, kinds={51: JOB}), "selftest_own_job", False),
        (replace(FREE, owners={GPU: 51}, kinds={51: RENTED}), "selftest_rented", True),
        (replace(FREE, canary_runs=True), "selftest_canary_runs", True),
        (replace(FREE, time_problem=True), "selftest_time_unsure", True),
    ],
)
def test_what_is_in_the_way(seen: Sight, code: str, passes: bool) -> None:
    found = rules.obstacle(seen, takes_gpus=True)

    assert found is not None
    assert (found.problem.code, found.passes) == (code, passes)
    assert found.problem.message.startswith("cannot ")
    assert found.problem.remedy


def test_nothing_is_in_the_way_of_a_free_machine() -> None:
    assert rules.obstacle(FREE, takes_gpus=True) is None
    assert rules.obstacle(replace(FREE, owners={GPU: 51}, canary_runs=True), takes_gpus=False) is None


def test_the_plan_keeps_the_order_of_the_steps() -> None:
    known = (StepName.BURN, StepName.SYSTEM, StepName.MEMORY)

    assert rules.plan(ORDER, known) == (StepName.SYSTEM, StepName.MEMORY, StepName.BURN)
    assert rules.plan(replace(ORDER, only=(StepName.BURN, StepName.DISK)), known) == (StepName.BURN,)


def test_steps_by_name_and_what_there_is_not() -> None:
    assert rules.steps_named(["burn", "cpu", "burn"]) == (StepName.BURN, StepName.CPU)
    with pytest.raises(ContractError) as refused:
        rules.steps_named(["gpu"])
    assert all(step in refused.value.problem.remedy for step in StepName)


def test_a_longer_burn_lasts_longer_and_has_an_end() -> None:
    assert rules.burn_s(ORDER) == rules.BURN_S
    assert rules.burn_s(replace(ORDER, is_quick=True)) == rules.QUICK_BURN_S
    assert rules.lasts(replace(ORDER, burn_s=3600)) == timedelta(hours=1) + rules.MARGIN
    assert rules.burn_s(replace(ORDER, burn_s=1e9)) == BURN_MAX_S


def step(outcome: Outcome) -> StepResult:
    return StepResult(StepName.MEMORY, outcome, "")


def verdict(outcome: Outcome) -> RequirementVerdict:
    return RequirementVerdict("pcie", outcome, "", "", "", "")


P, F, S = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED


@pytest.mark.parametrize(
    ("steps", "verdicts", "result"),
    [
        ((P, S), (), RunResult.PASSED),
        ((P, F), (), RunResult.FAILED),
        ((P,), (P, S), RunResult.PASSED),
        ((P,), (P, F), RunResult.FAILED),
        ((S, S), (), RunResult.NOT_RUN),
        ((), (), RunResult.NOT_RUN),
    ],
)
def test_the_result(steps: tuple[Outcome, ...], verdicts: tuple[Outcome, ...], result: RunResult) -> None:
    assert rules.result(map(step, steps), map(verdict, verdicts)) is result
