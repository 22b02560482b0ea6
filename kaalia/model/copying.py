"""Copies of renters' files: who holds files, and what is ordered and told of one copy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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

    `keys`: public keys, one line of OpenSSH's form each. `is_for_reading`: nothing is to be written this time.
    """

    holder: Holder
    keys: tuple[str, ...]
    is_for_reading: bool = False


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """One end of a copy between holders. `path` is absolute inside the holder's files."""

    holder: Holder
    path: str

    def __str__(self) -> str:
        return f"{self.holder}:{self.path}"


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

    @property
    def goes_to(self) -> Holder:
        return self.target.holder

    @property
    def lands_here(self) -> Holder | None:
        """Who gets bytes on this machine; None: nobody here."""
        return self.target.holder if self.away is None else None

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who is told of it, each once."""
        return tuple(dict.fromkeys((self.target.holder, self.source.holder)))

    @property
    def what(self) -> str:
        return f"copy from {self.source} to {self.target}"


@dataclass(frozen=True, slots=True)
class CloudOrder:
    """Copy between `place`, which this machine holds, and a cloud.

    `cloud`: whose connection it is, as `s3.1001`. `path`: bucket or folder there, without a slash in front.
    `flags`: of `contracts.cloud.FLAGS`. The login is no part of it: see `CloudLogin`.
    """

    copy_id: str
    place: CopyEnd
    cloud: str
    path: str
    is_upload: bool
    flags: tuple[str, ...] = ()

    @property
    def goes_to(self) -> Holder | None:
        return None if self.is_upload else self.place.holder

    @property
    def lands_here(self) -> Holder | None:
        return self.goes_to

    @property
    def holders(self) -> tuple[Holder, ...]:
        return (self.place.holder,)

    @property
    def what(self) -> str:
        cloud = f"{self.cloud}:{self.path}"
        return f"copy from {self.place} to {cloud}" if self.is_upload else f"copy from {cloud} to {self.place}"


@dataclass(frozen=True, slots=True)
class CloudLogin:
    """How a renter's cloud is reached: `kind` as `s3`, and `options` by their names in rclone's configuration."""

    kind: str
    options: Mapping[str, str] = field(repr=False)


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
