"""A finished self-test as its machine tells the marketplace, within bounds. What it says is the machine's signed claim.

An outbox row of kind `MessageKind.SELFTEST` holds its JSON text, and `StatusPost.selftests` carries that as it is: a
marketplace that knows of none takes the rest of the post, and an idle daemon need not know the type.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kaalia.model.machine import MachineReport
from kaalia.model.selftest import BURN_MAX_S, Figure, SelfTestRun, StepName, StepResult
from kaalia.wire.facts import is_name

WORDS_MAX_CHARS = 500
NAME_MAX_CHARS = 64
FIGURES_MAX = 2048
"""Of a run: sixteen GPUs with the pairs between them are some hundreds."""
TEXT_MAX_CHARS = 512 * 1024
"""Of a notice: what one within these bounds takes, twice."""
RUN_ID_MAX = 2**31 - 1
"""More tests than any machine runs."""
GPUS_MAX = 256
RUN_MAX_S = BURN_MAX_S + 24 * 3600
"""Far more than the longest burn with all steps beside it."""
FIGURE_MAX = 1e12


@dataclass(frozen=True, slots=True)
class SelfTestNotice:
    """`run` without verdicts: the marketplace judges by itself. `gpu_uuids`: of all GPUs that took part.

    The steps' figures, not the samples of a burn.
    """

    run: SelfTestRun
    gpu_uuids: tuple[str, ...]
    agent_version: str


def notice(run: SelfTestRun, report: MachineReport) -> SelfTestNotice:
    """Of a run that has ended. `report`: of the machine as it was tested."""
    steps = tuple(_short(step) for step in run.steps)
    return SelfTestNotice(
        run=replace(run, steps=steps, verdicts=()),
        gpu_uuids=tuple(gpu.uuid for gpu in report.gpus),
        agent_version=report.agent_version,
    )


def fault(told: SelfTestNotice) -> str | None:
    """Why it cannot be the notice of a run that ended; None: it can."""
    run = told.run
    figures = [figure for step in run.steps for figure in step.figures]
    checks = (
        (run.began_at is None or run.ended_at is None or run.result is None, "it has not ended"),
        (run.began_at is not None and run.ended_at is not None and run.ended_at < run.began_at, "it ended too early"),
        (not 0 <= run.run_id <= RUN_ID_MAX, "its number is none"),
        (_span_s(run) > RUN_MAX_S, "it took longer than a test can"),
        (len(run.order.task_id) > NAME_MAX_CHARS, "it answers an order that was never given"),
        (
            any(not is_name(uuid, NAME_MAX_CHARS) for uuid in told.gpu_uuids),
            "a GPU of it has no name",
        ),
        (len({step.step for step in run.steps}) < len(run.steps), "a step is told twice"),
        (len(run.steps) > len(StepName), "it has more steps than there are"),
        (len(figures) > FIGURES_MAX, f"it has more than {FIGURES_MAX} figures"),
        (len(told.gpu_uuids) > GPUS_MAX, f"it has more than {GPUS_MAX} GPUs"),
        (any(not _is_number(figure) for figure in figures), "a figure of it is no number"),
        (
            any(not is_name(figure.name, NAME_MAX_CHARS) for figure in figures),
            "a figure of it has no name",
        ),
        (any(len(step.words) > 2 * WORDS_MAX_CHARS for step in run.steps), "a step says too much"),
    )
    return next((why for is_fault, why in checks if is_fault), None)


def _short(step: StepResult) -> StepResult:
    return replace(
        step,
        words=step.words[:WORDS_MAX_CHARS],
        remedy=step.remedy[:WORDS_MAX_CHARS],
        figures=_first(step.figures),
    )


def _first(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    return tuple(figures)[: FIGURES_MAX // len(StepName)]


def _span_s(run: SelfTestRun) -> float:
    return 0.0 if run.began_at is None or run.ended_at is None else (run.ended_at - run.began_at).total_seconds()


def _is_number(figure: Figure) -> bool:
    return math.isfinite(figure.value) and abs(figure.value) <= FIGURE_MAX
