"""What is known of the machine at one look, and what a check makes of it. Plain values: tests build them by hand."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kaalia.host.block import Room
from kaalia.host.drives import Drive
from kaalia.host.mountinfo import Mount
from kaalia.host.packages import Upgrades
from kaalia.host.raid import RaidArray
from kaalia.host.swapping import Swap
from kaalia.model.certificate import Certificate
from kaalia.model.health import HOST, Severity
from kaalia.model.machine import MachineReport


@dataclass(frozen=True, slots=True)
class Unread:
    """A fact that could not be had, and why. None in a fact's place: this machine has no such thing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Swapping:
    """`pages_per_s`: in and out since the look before; None: this is the first."""

    swap: Swap
    pages_per_s: float | None


@dataclass(frozen=True, slots=True)
class Reboot:
    """`packages` None: none asked for a reboot."""

    packages: tuple[str, ...] | None
    running: str
    newer: str | None


@dataclass(frozen=True, slots=True)
class Silence:
    """Since when the marketplace at `url` confirms nothing any more."""

    url: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Moved:
    """The public address that this machine had before, the one it has now, and since when."""

    before: str
    now: str
    at: datetime


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Of one look. `report`: the newest one of this run of the daemon. `data_root`: Docker's, as last heard."""

    now: datetime
    uptime_s: float
    state_dir: str
    report: MachineReport | None = None
    data_root: str | None = None
    engine_answer_s: float | None = None
    mounts: tuple[Mount, ...] | Unread = ()
    wanted_mounts: tuple[str, ...] | Unread = ()
    rooms: Mapping[str, Room] | Unread = field(default_factory=dict)
    """By path."""
    raid: tuple[RaidArray, ...] | Unread | None = None
    drives: tuple[Drive, ...] | Unread | None = None
    is_synchronised: bool | Unread = True
    upgrades: Upgrades | Unread | None = None
    reboot: Reboot | Unread | None = None
    services: frozenset[str] | Unread | None = None
    swapping: Swapping | Unread | None = None
    nouveau_gpus: tuple[str, ...] | Unread = ()
    """PCI addresses of NVIDIA GPUs that nouveau holds."""
    silence: Silence | None = None
    moved: Moved | None = None
    certificates: tuple[Certificate, ...] = ()
    made_read_only: frozenset[str] = frozenset()
    damaged: frozenset[str] = frozenset()
    """Devices of which the kernel's log told it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`id` names an entry of host.toml. `words` fill its remedy; `severity`: where it is another than the entry's."""

    id: str
    message: str
    evidence: str = ""
    scope: str = HOST
    severity: Severity | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    hidden_by: tuple[str, ...] = ()
    """As in `model.health.Condition`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The table `limits` of host.toml and the lists beside it."""

    engine_slow_s: float
    inodes_low_percent: float
    state_low_mb: float
    state_out_mb: float
    swap_used_percent: float
    swap_used_mb: float
    swap_pages_per_s: float
    drive_worn_percent: float
    clock_settle_min: float
    certificate_days: float
    address_hours: float
    drives_every_min: float
    runtimes: tuple[str, ...]
    packages: tuple[str, ...]
    managers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Check:
    """`needs`: fields of HostFacts. Where one is Unread, the check is not made, and what it told stays told."""

    ids: tuple[str, ...]
    find: Callable[[HostFacts, Limits], Iterator[Finding]]
    needs: tuple[str, ...] = ()
