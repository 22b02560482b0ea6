"""What the GPUs of a contract used, out of counters that begin anew with the driver.

A GPU's counter is read with the report. What it used between two readings belongs to the contract that had it at both:
a minute at the beginning and one at the end may be nobody's, and never somebody else's.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

LINE_EVERY = timedelta(hours=1)
"""Of the journal, while a contract has its GPUs; the last line follows when it gives them back."""
MOST_W = 3000
"""No GPU takes so much; a counter that claims more has jumped."""
JOULES_PER_KWH = 3_600_000


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one GPU and one contract. `last_mj`: the counter at `read_at`; None: the GPU was not the contract's then."""

    total_mj: int
    last_mj: int | None
    read_at: datetime


def counted(tally: Tally | None, counter_mj: int, now: datetime) -> Tally:
    """The GPU is the contract's, and its counter says this."""
    if tally is None or tally.last_mj is None:
        return Tally(tally.total_mj if tally else 0, counter_mj, now)
    added_mj = counter_mj - tally.last_mj if counter_mj >= tally.last_mj else counter_mj
    most_mj = MOST_W * 1000 * max(0.0, (now - tally.read_at).total_seconds())
    return Tally(tally.total_mj + min(max(0, added_mj), round(most_mj)), counter_mj, now)


def released(tally: Tally, now: datetime) -> Tally:
    """The GPU is no longer the contract's."""
    return Tally(tally.total_mj, None, now)
