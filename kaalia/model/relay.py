"""The way in by a relay, for machines that nobody reaches: the nouns of it.

A relay gives each machine blocks of its ports, for good. What a block's connection may listen on never changes while it
is up: OpenSSH looks at a key's permissions at the login only.
"""

from dataclasses import dataclass

RENTERS_ADDRESS = "127.107.97.1"
"""Of loopback: connections to relays lead renters there, so the kernel tells them from programs of the machine."""


@dataclass(frozen=True, slots=True)
class RelayForward:
    """What comes to `relay_port` of the relay goes to `container_port` (TCP) of the contract."""

    contract_id: int
    container_port: int
    relay_port: int


@dataclass(frozen=True, slots=True)
class RelayLink:
    """One block of ports of one relay, as the marketplace gave it to this machine; each has a connection of its own.

    `host_key`: the relay's, as `ssh-ed25519 AAAA...`; nobody else is trusted. `user`: whom to log in as.
    """

    relay: str
    host: str
    port: int
    user: str
    host_key: str
    first_port: int
    last_port: int
    forwards: tuple[RelayForward, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.relay}-{self.first_port}"

    @property
    def endpoint(self) -> str:
        """Another one needs another connection."""
        return f"{self.user}@{self.host}:{self.port} {self.host_key}"


@dataclass(frozen=True, slots=True)
class LocalForward:
    """As an open connection has it: from a port of the relay to one of the machine's loopback.

    Records of an earlier version name no address: it was 127.0.0.1.
    """

    relay_port: int
    local_port: int
    local_address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class OpenTunnel:
    """What was asked of a connection that may still be up: at most these forwards stand."""

    name: str
    endpoint: str
    forwards: tuple[LocalForward, ...]


@dataclass(frozen=True, slots=True)
class RelayedPorts:
    """Where renters reach a contract by its relay: (port in the container, port of the relay), the lowest first."""

    host: str
    ports: tuple[tuple[int, int], ...]
