"""What a relay and a marketplace say to each other. docs/protocol.md tells the story."""

from dataclasses import dataclass

PATH_PERMITS = "/kaalia/v1/relays/{name}/permits"
"""The relay authenticates itself with `Authorization: Bearer TOKEN`."""


@dataclass(frozen=True, slots=True)
class RelayPoll:
    """`host_key`: the relay's own, as `ssh-ed25519 AAAA...`. `known`: digest of the permits that it has, or empty."""

    host_key: str
    user: str
    """Whom machines log in as."""
    first_port: int
    last_port: int
    known: str = ""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MachinePermit:
    """A machine's key (`ssh-ed25519 AAAA...`) and every port on which it may ever listen."""

    machine_id: int
    public_key: str
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RelayPermits:
    """All there are. `digest` names this very list."""

    digest: str
    machines: tuple[MachinePermit, ...]
