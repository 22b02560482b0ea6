"""The stages in the public client's own words, which it knows by their whole lines, and what runs in each.

The first step that fails ends the test. The client takes the kind of a failure from the words of its line, and else
from the stage in which it comes: so a line begins with the stage's word and the step's name.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

from verification import program, system
from verification.program import FAILED, SKIPPED, End
from verification.progress import Progress
from verification.settings import Settings


@dataclass(frozen=True)
class Stage:
    """`steps`: groups that run one after the other, those of a group side by side. `word`: one the client knows."""

    line: str
    word: str
    steps: tuple[tuple[str, ...], ...]


SYSTEM_LINE = "Running system requirements test..."
STAGES = (
    Stage(
        "Running ResNet50/ResNet18 test...",
        "resnet",
        (("compute",), ("matrix",), ("device_bandwidth",), ("host_bandwidth",)),
    ),
    Stage("Running ECC test...", "ecc", (("memory",),)),
    Stage("Running NCCL distributed test...", "nccl", (("peer_bandwidth",), ("collective",))),
    Stage("Running stress-ng and gpu-burn...", "stress-ng", (("disk",), ("burn", "cpu", "ram"))),
)


def run(settings: Settings, progress: Progress) -> None:
    """Runs everything and tells the end; never raises."""
    try:
        problem = _problem(settings, progress)
    except Exception as error:  # noqa: BLE001 - the client waits for an end, whatever goes wrong here
        # Its kind in a line before: the client takes the word RuntimeError for a fault of the GPUs.
        progress.say(f"what broke: {type(error).__name__}")
        problem = f"the test itself broke: {error}"
    progress.end(problem)


def _problem(settings: Settings, progress: Progress) -> str:
    """Why the machine fails; empty when it passes."""
    progress.say(SYSTEM_LINE)
    found = system.examine(settings, progress.say)
    if found.problem:
        progress.say(f"system: what to do: {found.remedy}")
        return found.problem
    for stage in STAGES:
        progress.say(stage.line)
        for group in stage.steps:
            for step, end in _group(settings, progress, group).items():
                progress.say(f"{step}: {end.outcome}{': ' if end.words else ''}{end.words}")
                if end.outcome == FAILED:
                    # Not in the last line: its words are not the failure's, and the client would judge by them.
                    progress.say(f"{step}: what to do: {end.remedy}" if end.remedy else "")
                    return f"{stage.word}: {step}: {end.words}"
    return ""


def _group(settings: Settings, progress: Progress, group: tuple[str, ...]) -> dict[str, End]:
    """Ends by step, in the group's order."""
    ends: dict[str, End] = {}

    def one(step: str) -> None:
        ends[step] = _step(settings, progress, step)

    running = [threading.Thread(target=one, args=(step,)) for step in group]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {step: ends.get(step, End(FAILED, "it broke")) for step in group}


def _step(settings: Settings, progress: Progress, step: str) -> End:
    file: Path = settings.program(step)
    if not file.exists():
        return End(SKIPPED, "this image does not have it")
    return program.run(file, settings.arguments.get(step, {}), settings.deadline_s[step], progress.say)
