"""When a machine could not be had: outages in the host's own words, silences as the marketplace saw them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Cause(StrEnum):
    POWER = "power"
    """It went down without shutting down, or slept."""
    NET = "net"
    """Its own way to the internet was gone."""
    DAEMON = "daemon"
    """The daemon did not run, the machine did."""
    DRIVER = "driver"
    """The driver hung or was lost, and a GPU with it."""
    DOCKER = "docker"
    PLATFORM = "platform"
    """The marketplace did not answer while the internet was there."""
    PLANNED = "planned"
    """In a window of maintenance, while the owner drained it, or shut down in order."""


OFFLINE_AFTER_S = 180.0
"""A marketplace waits this long unless it says otherwise: three missed heartbeats of 60 s."""
SILENT = (Cause.POWER, Cause.NET, Cause.DAEMON, Cause.PLATFORM, Cause.PLANNED)
"""Causes for which a marketplace hears nothing of a machine; the others it cannot see for itself."""


@dataclass(frozen=True, slots=True)
class Outage:
    """As the machine itself saw it. `end_at` None: it goes on. `is_rented`: a renter's workload ran when it began."""

    begin_at: datetime
    end_at: datetime | None
    cause: Cause
    is_rented: bool
    detail: str = ""
    """For people: what was seen."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A time in which the marketplace heard nothing of a machine for longer than it waits.

    `planned_s` of it lay in announced windows, `excused_s` of it the marketplace itself was away.
    """

    begin_at: datetime
    end_at: datetime
    is_rented: bool
    planned_s: float = 0.0
    excused_s: float = 0.0
    cause: Cause | None = None
    """The host's word. It changes no cost; None: there was none yet."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a machine's reliability is reckoned from: the marketplace's word, told to the machine as it is.

    `is_rented`: a renter's workload ran when the machine was last heard of. The silences are over, the oldest first.
    """

    watched_from: datetime
    offline_after_s: float = OFFLINE_AFTER_S
    is_rented: bool = False
    silences: tuple[Silence, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    begin_at: datetime
    end_at: datetime
