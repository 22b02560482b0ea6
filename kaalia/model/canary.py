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

    @property
    def has_passed(self) -> bool:
        return all(one.outcome is not Outcome.FAILED for one in self.steps)


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
