"""How the daemon's own loops do, for those who watch it: turns of its services, and how late its event loop wakes.

In memory, from the start of the process on. Names of loops are written in the code: there are a dozen at most.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LATE_S = 0.05
"""The event loop never blocks longer (I10)."""


@dataclass(slots=True)
class Turns:
    """Of one loop. Time is that of its work, what it awaits in it included; not its sleep between two turns."""

    done: int = 0
    failed: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0


@dataclass(slots=True)
class Lag:
    """How much later than asked a timer woke its task. `late`: how often by more than LATE_S."""

    looks: int = 0
    late: int = 0
    last_s: float = 0.0
    longest_s: float = 0.0


@dataclass(slots=True)
class Pulse:
    """What there is to tell of one process."""

    turns: dict[str, Turns] = field(default_factory=dict)
    lag: Lag = field(default_factory=Lag)

    @contextmanager
    def turn(self, loop: str) -> Iterator[None]:
        """Around the work of one turn. A cancelled one is no failure."""
        turns = self.turns.setdefault(loop, Turns())
        began_s = time.perf_counter()
        try:
            yield
        except Exception:
            turns.failed += 1
            raise
        finally:
            took_s = time.perf_counter() - began_s
            turns.done += 1
            turns.total_s += took_s
            turns.longest_s = max(turns.longest_s, took_s)

    def woke(self, late_s: float) -> None:
        """A timer woke so much later than it was asked to."""
        lag = self.lag
        lag.looks += 1
        lag.last_s = max(0.0, late_s)
        lag.late += lag.last_s > LATE_S
        lag.longest_s = max(lag.longest_s, lag.last_s)


PULSE = Pulse()
"""Of this process."""
