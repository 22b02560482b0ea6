"""Which ports of a machine a marketplace reached itself, from outside."""

from dataclasses import dataclass
from datetime import datetime

Spans = tuple[tuple[int, int], ...]
"""Neighbouring ports, first and last, in order."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """What its prober saw at `address`: the ports of each protocol that the machine's daemon answered on."""

    address: str
    seen_at: datetime
    tcp: Spans = ()
    udp: Spans = ()
