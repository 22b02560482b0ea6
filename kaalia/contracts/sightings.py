"""What a marketplace makes of the ports that its own prober tried for a machine. Pure.

A port counts when the daemon answered there, on the port that was asked. One that a tenant holds is not asked, and
stays as it was seen last; any other outcome takes it away.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome
from kaalia.model.sightings import Sightings, Spans
from kaalia.model.workload import Protocol

Sight = tuple[int, Protocol, bool | None]
"""Port, protocol, whether it was reached; None: it was not asked."""


def sight(port: int, protocol: Protocol, outcome: Outcome, answered_port: int | None, *, is_held: bool) -> Sight:
    if is_held:
        return port, protocol, None
    return port, protocol, outcome is Outcome.ANSWERED and answered_port == port


def noted(known: Sightings | None, address: str, sights: Iterable[Sight], now: datetime) -> Sightings:
    """With what a batch showed. What was seen at another address says nothing of this one."""
    if known is None or known.address != address:
        known = Sightings(address, now)
    ports = {Protocol.TCP: _ports(known.tcp), Protocol.UDP: _ports(known.udp)}
    for port, protocol, is_open in sights:
        if is_open is not None:
            (ports[protocol].add if is_open else ports[protocol].discard)(port)
    return replace(known, seen_at=now, tcp=_spans(ports[Protocol.TCP]), udp=_spans(ports[Protocol.UDP]))


def counted(known: Sightings, port_range: PortRange) -> tuple[int, int]:
    """Ports of the range that were reached, TCP and UDP."""
    return _within(known.tcp, port_range), _within(known.udp, port_range)


def _within(spans: Spans, port_range: PortRange) -> int:
    return sum(max(0, min(last, port_range.last) - max(first, port_range.first) + 1) for first, last in spans)


def _ports(spans: Spans) -> set[int]:
    return {port for first, last in spans for port in range(first, last + 1)}


def _spans(ports: set[int]) -> Spans:
    found: list[tuple[int, int]] = []
    for port in sorted(ports):
        if found and found[-1][1] + 1 == port:
            found[-1] = (found[-1][0], port)
        else:
            found.append((port, port))
    return tuple(found)
