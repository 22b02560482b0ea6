"""What is wrong with the machine and what was, as the local API tells it."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.errors import Problem
from kaalia.model.canary import CanaryState
from kaalia.model.health import OpenCondition, PastCondition


@dataclass(frozen=True, slots=True)
class HealthDocument:
    """`problems`: what keeps the daemon itself from its work, beside the conditions. `past`: the newest first."""

    as_of: datetime
    problems: tuple[Problem, ...]
    open: tuple[OpenCondition, ...]
    past: tuple[PastCondition, ...]
    canary: CanaryState | None = None
    """Of the machine's own test container; None: in safe mode."""
