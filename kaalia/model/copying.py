"""Copies of renters' files: who holds files, and what is ordered and told of one copy."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem


class HolderKind(StrEnum):
    """The letter of its public name."""

    INSTANCE = "C"
    VOLUME = "V"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose files: an instance's (by its contract's number) or a volume's."""

    kind: HolderKind
    number: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.number}"


@dataclass(frozen=True, slots=True)
class DoorOrder:
    """Let rsync in to the files of one holder, for the owners of these keys, for some minutes.

    `keys`: public keys, one line of OpenSSH's form each.
    """

    holder: Holder
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """One end of a copy between holders. `path` is absolute inside the holder's files."""

    holder: Holder
    path: str


@dataclass(frozen=True, slots=True)
class CopyDestination:
    """A door of another machine. `host_key`: its sshd's, `ssh-ed25519 AAAA...`; no other one is trusted."""

    host: str
    port: int
    host_key: str


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """Copy from `source`, which this machine holds, to `target`. `away`: where the target is; None: here too."""

    copy_id: str
    source: CopyEnd
    target: CopyEnd
    away: CopyDestination | None = None


class CopyState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class CopyStatus:
    """How a copy is doing: the daemon's word. `text`: for the renters of both ends, without their names."""

    copy_id: str
    holder: Holder
    """Whose renter reads it."""
    state: CopyState
    as_of: datetime
    text: str
    problem: Problem | None = None
