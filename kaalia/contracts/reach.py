"""From what a prober saw to the map of ports. Who listened, who holds what, and the time come as arguments.

What the map means for the owner, and what he can do about it, is in `remedies`.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome, Place, PortMap, PortSpan, PortState, Reason
from kaalia.model.workload import Protocol

BATCH_MAX = 512
"""Places of one batch: sockets of this machine and of the prober."""
UNPACED, PLACES_PER_S = 4096, 256
"""The first so many places are tried as fast as they answer, later ones in this pace: small routers follow 16,000
connections, and this leaves them some (docs/measured.md). What answers they keep for 10 s (TCP) and 30 s (UDP)."""
AGAIN_MAX = 256
"""Ports that did not answer are tried once more, if they are no more than these: packets do get lost."""
QUICK_S, SLOW_S = 0.5, 4.5
"""Of one batch that answers, of one that is silent, with some time for the way. Measured: see docs/measured.md."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of one port. `answered_port`: where the question arrived, when it was answered."""

    outcome: Outcome
    answered_port: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon knows of a probe. `held`: the contract of each port that has one; `used`: the host's own program.

    `arrived`: where a genuine question came in. `may_be_own_firewall`: none arrived, though packets came to this
    machine, or may have come.
    """

    probed_at: datetime
    prober: str
    port_range: PortRange
    configured_ip: str | None
    address: str
    seen_address: str
    held: Mapping[Place, int]
    used: Mapping[Place, str]
    arrived: Collection[Place]
    hairpin: bool | None = None
    may_be_own_firewall: bool = False


_OF_FREE = {
    Outcome.SILENT: (PortState.FILTERED, Reason.SILENT),
    Outcome.PROHIBITED: (PortState.FILTERED, Reason.PROHIBITED),
    Outcome.REFUSED: (PortState.CLOSED, Reason.REFUSED),
    Outcome.OTHER: (PortState.CLOSED, Reason.OTHER),
    Outcome.CONNECTED: (PortState.CLOSED, Reason.OTHER),
}
_UNREACHED = frozenset({Outcome.SILENT, Outcome.PROHIBITED, Outcome.REFUSED})
_OF_HELD = {
    Outcome.CONNECTED: Reason.CONNECTS,
    Outcome.REFUSED: Reason.REFUSED,
    Outcome.PROHIBITED: Reason.PROHIBITED,
}


def places(port_range: PortRange) -> list[Place]:
    """Every port of the range, TCP and UDP of one number together."""
    return [(port, protocol) for port in range(port_range.first, port_range.last + 1) for protocol in Protocol]


def batch_size(places: int) -> int:
    """A quarter of a small range, so that a renter who comes meanwhile finds free ports; even, at least 2."""
    return max(2, min(BATCH_MAX, places // 4)) // 2 * 2


def duration_s(ports: int) -> tuple[int, int]:
    """How long a probe of so many ports takes: when all of them answer, and when none does."""
    batches = math.ceil(2 * ports / batch_size(2 * ports))
    again = batches if 2 * ports <= AGAIN_MAX else 0
    return math.ceil(max(batches * QUICK_S, due_s(2 * ports))), math.ceil((batches + again) * SLOW_S)


def due_s(places: int) -> float:
    """How long after the beginning of a probe so many places may have been tried, and the next ones may begin."""
    return max(0, places - UNPACED) / PLACES_PER_S


def judge(facts: Facts, sights: Mapping[Place, Sight], earlier: PortMap | None) -> PortMap:
    """The map, without findings. `earlier`: the map before, which still holds for ports that nobody may try now."""
    known = earlier if earlier is not None and is_same_place(earlier, facts) else None
    sights = _with_all_refusals(sights)
    spans = [_span(place, facts, sights, known) for place in sorted(places(facts.port_range), key=_by_protocol)]
    return PortMap(
        probed_at=facts.probed_at,
        prober=facts.prober,
        port_range=facts.port_range,
        configured_ip=facts.configured_ip,
        address=facts.address,
        seen_address=facts.seen_address,
        hairpin=facts.hairpin,
        spans=tuple(_joined(spans)),
        is_blind=facts.may_be_own_firewall and _is_unreached(facts, sights),
    )


def _is_unreached(facts: Facts, sights: Mapping[Place, Sight]) -> bool:
    """Nothing came to any free port of TCP, by which ports are counted."""
    free = [sight for place, sight in sights.items() if place[1] is Protocol.TCP and place not in facts.held]
    return bool(free) and not facts.arrived and all(sight.outcome in _UNREACHED for sight in free)


def is_same_place(known: PortMap, facts: Facts) -> bool:
    """What was proven at another address proves nothing here."""
    return known.address == facts.address


def _with_all_refusals(sights: Mapping[Place, Sight]) -> Mapping[Place, Sight]:
    """Routers send few ICMP refusals a second: where UDP is refused now and then, and never answered, all of it is."""
    udp = {sight.outcome for (_, protocol), sight in sights.items() if protocol is Protocol.UDP}
    if Outcome.REFUSED not in udp or Outcome.ANSWERED in udp:
        return sights
    return {
        place: Sight(Outcome.REFUSED) if place[1] is Protocol.UDP and sight.outcome is Outcome.SILENT else sight
        for place, sight in sights.items()
    }


def _span(place: Place, facts: Facts, sights: Mapping[Place, Sight], earlier: PortMap | None) -> PortSpan:
    port, protocol = place
    if place in facts.held:
        return _held(place, f"C.{facts.held[place]}", sights.get(place), earlier)
    if place in facts.used:
        return PortSpan(port, port, protocol, PortState.HELD, Reason.IN_USE, is_open=False, detail=facts.used[place])
    sight = sights.get(place)
    if sight is None:  # it was given up for a renter while it was to be tried
        return _held(place, "", None, earlier)
    if sight.outcome is Outcome.ANSWERED:
        if sight.answered_port == port:
            return PortSpan(port, port, protocol, PortState.OPEN, Reason.ANSWERED, is_open=True)
        offset = (sight.answered_port or 0) - port
        return PortSpan(port, port, protocol, PortState.CLOSED, Reason.SHIFTED, is_open=False, detail=f"{offset:+d}")
    state, reason = _OF_FREE[sight.outcome]
    if reason is Reason.SILENT and place in facts.arrived:
        reason = Reason.ANSWER_LOST
    return PortSpan(port, port, protocol, state, reason, is_open=False)


def _held(place: Place, owner: str, sight: Sight | None, earlier: PortMap | None) -> PortSpan:
    """Its owner is not disturbed: whether it takes a connection is all that is asked, and of UDP not even that.

    A program that does not listen refuses as a router would, and that a connection was taken is the prober's word
    alone: what counts is what was proven when the port was free.
    """
    reason = Reason.NOT_ASKED
    if sight is not None and place[1] is Protocol.TCP:
        reason = _OF_HELD.get(sight.outcome, Reason.SILENT)
    before = earlier.state_at(place) if earlier else None
    is_open = before is not None and before.is_open
    return PortSpan(place[0], place[0], place[1], PortState.HELD, reason, is_open, owner)


def _by_protocol(place: Place) -> tuple[str, int]:
    return place[1].value, place[0]


def _joined(spans: Iterable[PortSpan]) -> list[PortSpan]:
    """Neighbours of which the same is true become one."""
    found: list[PortSpan] = []
    for span in spans:
        last = found[-1] if found else None
        if last is not None and last.last + 1 == span.first and _sameness(last) == _sameness(span):
            found[-1] = PortSpan(last.first, span.last, *_sameness(span))
        else:
            found.append(span)
    return found


def _sameness(span: PortSpan) -> tuple[Protocol, PortState, Reason, bool, str]:
    return span.protocol, span.state, span.reason, span.is_open, span.detail


def in_short(ports: Iterable[int]) -> str:
    """`40003, 40007-40009`."""
    numbers = sorted(set(ports))
    if not numbers:
        return ""
    breaks = [0, *(at for at, (a, b) in enumerate(pairwise(numbers), 1) if b != a + 1), len(numbers)]
    groups = [numbers[start:end] for start, end in pairwise(breaks)]
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)
