"""The seam to what tenants' networks are made of: walls, ports, IPv6, and networks that stand ready."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from kaalia.errors import Problem


@dataclass(frozen=True, slots=True)
class Mended:
    """`chains`: of the firewall, which somebody else had changed and which are as they should be again."""

    chains: tuple[str, ...] = ()


class NetworkWalls(Protocol):
    """Keeps tenants' networks apart from the machine, its LAN and each other."""

    async def mend(self) -> Mended:
        """Look at all walls, and raise again what does not stand. Raises HostError: it does not stand now."""
        ...

    async def alarmed(self, timeout_s: float) -> None:
        """Wait until something may have happened to them, `timeout_s` at most."""
        ...


class SecondFamily(Protocol):
    """IPv6 of new contracts' networks."""

    async def problem(self) -> Problem | None:
        """Why they get none although the machine has it."""
        ...


class NetworkPorts(Protocol):
    """Publishes tenants' ports."""

    async def mend(self) -> Mended:
        """Look at all ports, and lead again what does not lead to its tenant. Raises HostError."""
        ...


class NetworkPool(Protocol):
    """Networks that stand ready for contracts to come. Raises WorkloadError."""

    @property
    def warm(self) -> frozenset[str]:
        """Their subnets."""
        ...

    @property
    def making(self) -> frozenset[str]:
        """Subnets that are about to be theirs, and that nobody else takes."""
        ...

    async def refill(
        self, claimed: Callable[[], Awaitable[Collection[str]]], choose: Callable[[Collection[str]], str]
    ) -> None:
        """Make those that are missing, and remove what contracts left. `claimed`: subnets of contracts, by the books.

        `choose`: a subnet that is none of those given.
        """
        ...

    async def changed(self, timeout_s: float) -> None:
        """Wait until there is something for `refill` to do, `timeout_s` at most."""
        ...
