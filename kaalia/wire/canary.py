"""The machine's own test container, as the local API tells it."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.model.canary import CanaryState


@dataclass(frozen=True, slots=True)
class CanaryDocument:
    """`every_hours`: how often an idle machine proves itself; None: only when it is asked to."""

    as_of: datetime
    every_hours: float | None
    state: CanaryState
