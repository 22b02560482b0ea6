"""What is counted of a contract: edges of its time at work and of its disk, as the machine wrote them down."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Meter(StrEnum):
    """RUN counts the time in which the container ran, with its GPUs; DISK the time in which its disk was kept.

    VOLUME counts the time in which a volume was kept, with its bytes: a volume is a contract with a number of its own.
    INET_UP and INET_DOWN count bytes to and from the internet. ENERGY counts joules of its GPUs: the owner pays for
    them, and nobody else is told.
    """

    RUN = "run"
    DISK = "disk"
    VOLUME = "volume"
    INET_UP = "inet_up"
    INET_DOWN = "inet_down"
    ENERGY = "energy"


TRAFFIC = (Meter.INET_UP, Meter.INET_DOWN)


class Edge(StrEnum):
    START = "start"
    END = "end"
    COUNT = "count"
    """Of meters that count no time: so many bytes or joules since the contract began."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the machine's journal, never changed. START and END alternate; no meter goes back in time."""

    contract_id: int
    """The volume's number when the meter is VOLUME: these are counted apart."""
    generation: int
    meter: Meter
    edge: Edge
    at: datetime
    """The exact moment: the container engine's own, where it is known."""
    amount: int
    """GPUs of RUN, joules of ENERGY, bytes of the others; an END repeats that of its START, a COUNT is a sum that never
    shrinks."""
    reason: str = ""
    """The state of the workload or volume that made it, or why an end was inferred."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A time in which `amount` was in use. `ended_at` None: it goes on."""

    contract_id: int
    meter: Meter
    amount: int
    started_at: datetime
    ended_at: datetime | None = None
