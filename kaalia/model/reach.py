"""Which ports of this machine the outside reaches, as a prober found out: the nouns of the port map."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem
from kaalia.model.machine import PortRange, ProvenPorts
from kaalia.model.workload import Protocol

Place = tuple[int, Protocol]
"""One port of one protocol."""


class Outcome(StrEnum):
    """What a prober saw of one port."""

    ANSWERED = "answered"
    """With the proof of the daemon that asked for the probe."""
    CONNECTED = "connected"
    """TCP, where only a connection was asked for."""
    REFUSED = "refused"
    SILENT = "silent"
    PROHIBITED = "prohibited"
    """Somebody on the way said so: ICMP host or network unreachable."""
    OTHER = "other"
    """Somebody answered, or took the connection, who is not that daemon."""


class PortState(StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    FILTERED = "filtered"
    HELD = "held"
    """By a contract, or by a program of the host: nobody else may answer there."""


class Reason(StrEnum):
    """Why a port is in its state."""

    ANSWERED = "answered"
    SILENT = "silent"
    PROHIBITED = "prohibited"
    ANSWER_LOST = "answer_lost"
    """The question came in, the answer did not get out."""
    REFUSED = "refused"
    OTHER = "other"
    SHIFTED = "shifted"
    """Forwarded, but to another port of this machine."""
    CONNECTS = "connects"
    NOT_ASKED = "not_asked"
    IN_USE = "in_use"
    """By a program that is not kaalia's."""


@dataclass(frozen=True, slots=True)
class PortSpan:
    """Neighbouring ports, first and last included, of which the same is true.

    `is_open`: it is proven that the outside reaches them; of one that is held and was never proven nothing is known.
    `detail`: the owner, the other port, or empty.
    """

    first: int
    last: int
    protocol: Protocol
    state: PortState
    reason: Reason
    is_open: bool
    detail: str = ""

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class PortMap:
    """One probe of the whole range. `findings`: what is wrong with it, and what to do about it."""

    probed_at: datetime
    prober: str
    """Its URL."""
    port_range: PortRange
    configured_ip: str | None
    """`ports.public_ip` at that time; None: auto."""
    address: str
    """The one that was probed."""
    seen_address: str
    """The one that the prober saw this machine come from."""
    hairpin: bool | None
    """Whether this machine reaches itself by `address`; None: not tried."""
    spans: tuple[PortSpan, ...]
    findings: tuple[Problem, ...] = ()
    told_address: str | None = None
    """What the marketplace called this machine's address when the probe began: another word of it is a change."""
    routed_ip: str | None = None
    """The machine's own address then, to which a router forwards; None: not known."""
    is_blind: bool = False
    """No free TCP port was reached, and this machine's own firewall may be why: of published ports nothing is known."""

    def open_count(self, protocol: Protocol) -> int:
        return sum(len(span) for span in self.spans if span.is_open and span.protocol is protocol)

    def state_at(self, place: Place) -> PortSpan | None:
        port, protocol = place
        fits = (span for span in self.spans if span.protocol is protocol and span.first <= port <= span.last)
        return next(fits, None)

    @property
    def proven(self) -> ProvenPorts | None:
        """None: nobody knows."""
        if self.is_blind:
            return None
        return ProvenPorts(self.address, self.open_count(Protocol.TCP), self.open_count(Protocol.UDP), self.probed_at)


@dataclass(frozen=True, slots=True)
class ProbeProgress:
    """A probe that was ordered or is under way. `total` 0: not begun."""

    ordered_at: datetime
    done: int = 0
    total: int = 0
