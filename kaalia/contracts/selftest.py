"""When a test of the whole machine may begin, which steps it has, and what its result is. Pure.

ordered ──▶ waits (a minute at most) ──▶ runs ──▶ passed | failed
                 │                        │
                 └── not run: why ◀───────┘ a renter comes, the owner breaks it off, the daemon ends
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from kaalia.contracts.contract import ContractKind
from kaalia.errors import ContractError, HostError, Problem
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import (
    BURN_MAX_S,
    Outcome,
    RequirementVerdict,
    RunResult,
    SelfTestOrder,
    SelfTestRun,
    StepName,
    StepResult,
)

GAVE_WAY = "selftest_gave_way"
BURN_S, QUICK_BURN_S = 120.0, 10.0
MARGIN = timedelta(minutes=50)
"""For all but the burn, though every step runs into its bound: after that the contract that holds the GPUs is over,
whoever forgets it."""


NOTHING_PROVEN = Problem(
    "selftest_nothing_proven",
    "cannot tell anything of this machine: none of the steps had anything to prove here",
    remedy="see each step's words; kaalia doctor",
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What decides whether a run may begin. `owners`: UUID of a GPU -> contract; `rented`: tenants' workloads that run.

    `well`: UUIDs of GPUs that may be rented out; `time_problem`: why the time of contracts is not certain.
    """

    report: MachineReport | None
    owners: Mapping[str, int]
    kinds: Mapping[int, ContractKind]
    rented: tuple[int, ...]
    well: frozenset[str] = frozenset()
    canary_runs: bool = False
    time_problem: bool = False


@dataclass(frozen=True, slots=True)
class Obstacle:
    """`passes`: it may be over in a moment."""

    problem: Problem
    passes: bool = False


def burn_s(order: SelfTestOrder) -> float:
    if order.burn_s is not None:
        return min(order.burn_s, BURN_MAX_S)
    return QUICK_BURN_S if order.is_quick else BURN_S


def lasts(order: SelfTestOrder) -> timedelta:
    """When it is over at the latest."""
    return MARGIN + timedelta(seconds=burn_s(order))


def plan(order: SelfTestOrder, known: Collection[StepName]) -> tuple[StepName, ...]:
    """In the order in which they are run."""
    return tuple(step for step in StepName if step in known and (not order.only or step in order.only))


def steps_named(names: Iterable[str]) -> tuple[StepName, ...]:
    """Raises ContractError `selftest_step_unknown`, which names all that are known."""
    found = []
    for name in names:
        if name not in set(StepName):
            raise ContractError(
                "selftest_step_unknown",
                f"cannot run the step {name[:40]!r}: there is no such one",
                remedy=f"use one of {', '.join(StepName)}",
            )
        found.append(StepName(name))
    return tuple(dict.fromkeys(found))


def obstacle(seen: Sight, *, takes_gpus: bool) -> Obstacle | None:
    """Why it cannot begin; None: it can. `takes_gpus`: so that it needs a contract of its own."""
    if seen.report is None:
        return Obstacle(_cannot("selftest_not_read", "the machine has not been read yet", "kaalia status"), passes=True)
    if seen.rented:
        named = ", ".join(f"C.{number}" for number in seen.rented)
        return Obstacle(_cannot("selftest_rented", f"tenants' instances run: {named}", "wait for their end"))
    if not takes_gpus:
        return None
    if seen.canary_runs:
        why = _cannot("selftest_canary_runs", "the machine proves itself by its test container", "see: kaalia canary")
        return Obstacle(why, passes=True)
    taken = sorted({seen.owners[gpu.uuid] for gpu in seen.report.gpus if gpu.uuid in seen.owners})
    if taken:
        jobs = all(seen.kinds.get(number) is ContractKind.DEFAULT_JOB for number in taken)
        named = ", ".join(f"C.{number}" for number in taken)
        if jobs:
            why = _cannot("selftest_own_job", f"the owner's own jobs have its GPUs: {named}", "end them first")
            return Obstacle(why)
        # A stopped instance gives its GPUs back; so does a test that is about to go.
        return Obstacle(_cannot("selftest_rented", f"its GPUs are given to {named}", "wait for its end"), passes=True)
    if seen.time_problem:
        why = _cannot("selftest_time_unsure", "the time of the machine is not confirmed", "see: timedatectl")
        return Obstacle(why, passes=True)
    return None


def gave_way(contract_ids: Iterable[int], seen: str = "") -> ContractError:
    """`seen`: what is known of its own contract, where it is the first to know that somebody came."""
    named = ", ".join(f"C.{number}" for number in contract_ids) or "a renter"
    message = f"cannot go on with the self-test: it gave way to {named}"
    return ContractError(GAVE_WAY, message, remedy="run it again later", evidence=seen)


def lost(gpu_uuids: Iterable[str], seen: str) -> HostError:
    """GPUs that were well when the test began; `seen`: what its contract waits for."""
    return HostError(
        "selftest_gpu_lost",
        f"cannot book the GPUs of this machine: while the test began it lost {', '.join(sorted(gpu_uuids))}",
        remedy="see: kaalia doctor; dmesg names what is wrong with a GPU",
        evidence=seen,
    )


def ended(run: SelfTestRun, verdicts: tuple[RequirementVerdict, ...]) -> SelfTestRun:
    """One whose steps all came to an end."""
    found = result(run.steps, verdicts)
    problem = NOTHING_PROVEN if found is RunResult.NOT_RUN else None
    return replace(run, verdicts=verdicts, result=found, problem=problem)


def result(steps: Iterable[StepResult], verdicts: Iterable[RequirementVerdict]) -> RunResult:
    """One failure fails it. Steps that could prove nothing do not, but when none proved anything there is no result."""
    outcomes = {one.outcome for one in steps}
    unmet = any(one.outcome is Outcome.FAILED and not one.is_advice for one in verdicts)
    if Outcome.FAILED in outcomes or unmet:
        return RunResult.FAILED
    return RunResult.PASSED if Outcome.PASSED in outcomes else RunResult.NOT_RUN


def _cannot(code: str, why: str, remedy: str) -> Problem:
    return Problem(code, f"cannot test this machine: {why}", remedy=remedy)
