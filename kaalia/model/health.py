"""What is wrong with the machine now, as one of its services found it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem

HOST = "host"
"""The scope of what concerns the whole machine."""
OWN_CHANNELS = "notify"
"""The source of conditions about the channels by which the owner is told: they are shown, and told by no channel."""


class Severity(StrEnum):
    WARN = "warn"
    CRITICAL = "critical"
    UNKNOWN = "unknown"
    """It could not be looked at. That is not the same as healthy."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Named by `problem.code` and `scope`: `host`, the UUID of a GPU, `C.51`, or `container NAME`.

    `clears_when` says what ends it by itself.

    A condition is told; by itself it never stops a tenant. `blocks`: while it is critical or unknown, nothing is rented
    anew of what it is about: the GPU, else the whole machine. None: a GPU's does, any other does not.
    See `contracts.fitness`.
    """

    problem: Problem
    severity: Severity
    clears_when: str
    scope: str = HOST
    hidden_by: tuple[str, ...] = ()
    """Codes of conditions of the same part, or of the host, whose symptom it is; see contracts/symptoms.py."""
    blocks: bool | None = None


@dataclass(frozen=True, slots=True)
class OpenCondition:
    """`source`: the service that found it; `since`: when it was first seen without a break."""

    condition: Condition
    source: str
    since: datetime


@dataclass(frozen=True, slots=True)
class PastCondition:
    """One that its service no longer finds. `condition`: as it was told last."""

    condition: Condition
    source: str
    since: datetime
    until: datetime
