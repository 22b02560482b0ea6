"""The only caller of the system clocks. Everything else takes a `Clock`, or the time itself, as an argument."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for deadlines that were agreed with others, monotonic time for durations."""

    def now(self) -> datetime:
        """Current wall time, aware, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start; never jumps."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()


def from_epoch(epoch_s: float) -> datetime:
    """Epoch seconds to aware UTC datetime."""
    return datetime.fromtimestamp(epoch_s, UTC)
