"""How fast bytes go between this machine and a peer, as measured. Rates in Mb/s are 10^6 bits a second."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem


class Direction(StrEnum):
    """As this machine sees it."""

    DOWN = "down"
    UP = "up"


class Confidence(StrEnum):
    """How far the rate of the whole may be trusted; see `contracts.speed`."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Figure:
    """One direction. `spread`: standard deviation of the rates of its steps; `margin`: half of the 95 % interval of
    their mean; both as shares of the mean. `cpu_percent`: of one core, what this machine's own part cost."""

    mbps: float
    transferred_bytes: int
    duration_s: float
    """Of what was counted: the beginning is left out."""
    spread: float
    margin: float
    confidence: Confidence
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """One test, both ways. `peer`: the marketplace's URL, or HOST:PORT of another one."""

    measured_at: datetime
    peer: str
    method: str
    streams: int
    processes: int
    down: Figure
    up: Figure
    limited: bool = False
    """True: shorter and with fewer bytes, since tenants ran."""
    address: str | None = None
    """What the marketplace called this machine's address when the test began."""


@dataclass(frozen=True, slots=True)
class SpeedOrder:
    """A test that the owner asked for. `peer`: HOST:PORT, None: the configured one; `secret`: shared with that peer."""

    ordered_at: datetime
    peer: str | None = None
    secret: str = ""
    force: bool = False

    def __repr__(self) -> str:
        return f"SpeedOrder({self.ordered_at}, peer={self.peer!r}, force={self.force})"


@dataclass(frozen=True, slots=True)
class SpeedProgress:
    """A test under way. `share` of the whole, from 0 to 1; `mbps`: the present rate."""

    direction: Direction
    share: float
    mbps: float


@dataclass(frozen=True, slots=True)
class SpeedFailure:
    """Why the newest test gave no result."""

    failed_at: datetime
    problem: Problem
