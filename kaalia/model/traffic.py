"""Bytes between a contract's workload and the internet, as the kernel's counters have them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bytes:
    """As IP packets have them, headers included. `up`: from the workload to the internet."""

    up: int = 0
    down: int = 0

    @property
    def both(self) -> int:
        return self.up + self.down

    def __add__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.up + other.up, self.down + other.down)

    def __sub__(self, other: "Bytes") -> "Bytes":
        return Bytes(self.up - other.up, self.down - other.down)


NO_BYTES = Bytes()


@dataclass(frozen=True, slots=True)
class Counter:
    """What the kernel counts for one contract. `epoch`: new with each counter that is set up, which begins at 0."""

    contract_id: int
    subnet: str
    """CIDR of the contract's own network."""
    epoch: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a counter says now. `relayed`: of renters that came by a relay, counted apart from the rest."""

    counter: Counter
    raw: Bytes
    relayed: Bytes = NO_BYTES
