"""What the daemon knows of itself when it is scraped."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.pulse import Pulse


@dataclass(frozen=True, slots=True)
class Internals:
    """`heard_at` None: not since the start."""

    started_at: datetime
    safe_mode: bool
    pulse: Pulse
    unwritable: bool = False
    heard_at: datetime | None = None
