"""What the machine proves to itself by a container of its own before it is rented out: steps, and how they went."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.model.selftest import Outcome


class Step(StrEnum):
    LAUNCH = "launch"
    GPU = "gpu"
    NETWORK = "network"
    PORTS = "ports"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True)
class StepResult:
    """`words`: what was seen, or why nothing was."""

    step: Step
    outcome: Outcome
    words: str
    gpu_uuids: tuple[str, ...] = ()
    """Of a failure: the GPUs that it is about. None named: it is about the machine."""


class Cause(StrEnum):
    """Why it is run. Until one that is due for the first three has passed, nothing new is rented out."""

    INSTALL = "install"
    BOOT = "boot"
    UPGRADE = "upgrade"
    AGAIN = "again"
    """The last one failed."""
    IDLE = "idle"
    ASKED = "asked"


@dataclass(frozen=True, slots=True)
class Versions:
    """Of what a container passes through. None: not known, or not there."""

    agent: str
    driver: str | None
    engine: str | None


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """One that came to an end of its own."""

    cause: Cause
    began_at: datetime
    ended_at: datetime
    boot_id: str
    versions: Versions
    steps: tuple[StepResult, ...]
    gpu_uuids: tuple[str, ...] = ()
    """What it was tried with."""

    @property
    def has_passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[StepResult, ...]:
        return tuple(one for one in self.steps if one.outcome is Outcome.FAILED)

    @property
    def proves_machine(self) -> bool:
        """Nothing failed but single GPUs."""
        return all(one.gpu_uuids for one in self.failed)


@dataclass(frozen=True, slots=True)
class BrokenGpu:
    """One that a container could not use. `is_sure`: not the first failure of a GPU that was proven before."""

    uuid: str
    words: str
    is_sure: bool


@dataclass(frozen=True, slots=True)
class CanaryState:
    """All that is kept of it. `passed`: the newest run that did; `failures`: how many failed since."""

    last: CanaryRun | None = None
    passed: CanaryRun | None = None
    failures: int = 0
    asked_at: datetime | None = None
    running_since: datetime | None = None
    waits_for: str = ""
    """One is due: why it is not run yet."""
    gave_way_at: datetime | None = None
    """The last one that came to no end of its own: it runs, or was broken off, for somebody of higher rank."""
    broken: tuple[BrokenGpu, ...] = ()
    """Until a run with them passes."""
