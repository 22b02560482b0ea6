"""Named points at which a proof may kill the daemon: `KAALIA_CRASH_AT=<point>[:n]` dies at the n-th visit (n from 1).

Off unless that variable is set. The points stand around every intent, so that killing at each of them shows that a
crash anywhere is only a pause (I2, I3).
"""

import os
import signal
from collections import Counter

VARIABLE = "KAALIA_CRASH_AT"

POINTS = (
    "pull.intended",
    "pull.done",
    "create.intended",
    "create.done",
    "start.intended",
    "start.done",
    "launch.recorded",
    "stop.intended",
    "stop.done",
    "stop.recorded",
    "renew.intended",
    "discard.intended",
    "discard.done",
    "discard.recorded",
    "remove.intended",
    "remove.done",
    "remove.recorded",
)
"""`intended`: the intent is durable, nothing was done. `done`: Docker did it, nothing is written. `recorded`: both."""
VOLUME_POINTS = (
    "volume.make.intended",
    "volume.make.done",
    "volume.make.recorded",
    "volume.remove.intended",
    "volume.remove.done",
    "volume.remove.recorded",
)
"""The same around volumes."""

_visits: Counter[str] = Counter()


def at(point: str) -> None:
    """Die here, as if by SIGKILL, when the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, nth = wanted.partition(":")
    _visits[point] += 1
    if name == point and _visits[point] == int(nth or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
